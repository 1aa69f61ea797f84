#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, const T* weight, const T* bias, int64_t images, int64_t channels, int64_t pixels,
                int64_t groups, float eps, bool last) {
  // A group's elements: `lines` runs of `run` neighbours, `stride` apart.
  const int64_t width = channels / groups, lines = last ? pixels : width, run = last ? width : pixels, stride = last ? channels : pixels;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t start = n * channels * pixels + g * width * (last ? 1 : pixels);
      float sum = 0.f, squares = 0.f;
      for (int64_t a = 0; a < lines; ++a) {
#pragma omp simd reduction(+ : sum)
        for (int64_t b = 0; b < run; ++b) sum += fk::load(input + start + a * stride + b);
      }
      const float mean = sum / float(lines * run);
      for (int64_t a = 0; a < lines; ++a) {
#pragma omp simd reduction(+ : squares)
        for (int64_t b = 0; b < run; ++b) {
          const float centred = fk::load(input + start + a * stride + b) - mean;
          squares += centred * centred;
        }
      }
      const float scale = 1.f / std::sqrt(squares / float(lines * run) + eps);
      for (int64_t a = 0; a < lines; ++a) {
        for (int64_t b = 0; b < run; ++b) {
          const int64_t at = start + a * stride + b, c = g * width + (last ? b : a);
          const float y = (fk::load(input + at) - mean) * scale * fk::load(weight + c) + fk::load(bias + c);
          fk::store(out + at, y / (1.f + std::exp(-y)));
        }
      }
    }
  }
}

void group_norm_silu(tvm::ffi::TensorView out, tvm::ffi::TensorView input, int64_t num_groups, tvm::ffi::TensorView weight,
                     tvm::ffi::TensorView bias, double eps, int64_t channels_last) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t pixels = channels_last ? input.size(1) : input.size(2);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), input.size(0), weight.size(0), pixels,
           num_groups, float(eps), channels_last == 1);
  });
}
