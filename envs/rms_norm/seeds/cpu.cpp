#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, const T* weight, int64_t rows, int64_t width, int64_t stride, float epsilon) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    const T* x = input + t * stride;
    T* y = out + t * width;
    float sum = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t h = 0; h < width; ++h) {
      float v = fk::load(x + h);
      sum += v * v;
    }
    const float scale = 1.f / std::sqrt(sum / float(width) + epsilon);
#pragma omp simd
    for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(weight + h));
  }
}

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), input.size(0), input.size(1), input.stride(0), float(epsilon));
  });
}
