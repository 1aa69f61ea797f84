#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, const T* gates, const T* weight, int64_t rows, int64_t width, float eps, bool sigmoid) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = input + r * width;
    const T* gate = gates + r * width;
    float sum = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += fk::load(x + i) * fk::load(x + i);
    const float scale = 1.f / std::sqrt(sum / float(width) + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = fk::load(gate + i);
      fk::store(out + r * width + i, fk::load(x + i) * scale * fk::load(weight + i) * (sigmoid ? 1.f : g) / (1.f + std::exp(-g)));
    }
  }
}

void gated_rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView gate, tvm::ffi::TensorView weight,
                    double eps, bool sigmoid) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(gate), fk::data<T>(weight), x.size(0), x.size(1), float(eps), sigmoid);
  });
}
