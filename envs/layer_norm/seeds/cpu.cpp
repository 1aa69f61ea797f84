#include <cmath>
#include <fastkernels.h>

template <typename T>
static void run(T* out, const T* input, const T* weight, const T* bias, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    const T* x = input + t * width;
    float sum = 0.f, squares = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t h = 0; h < width; ++h) sum += fk::load(x + h);
    const float mean = sum / float(width);
#pragma omp simd reduction(+ : squares)
    for (int64_t h = 0; h < width; ++h) squares += (fk::load(x + h) - mean) * (fk::load(x + h) - mean);
    const float scale = 1.f / std::sqrt(squares / float(width) + eps);
#pragma omp simd
    for (int64_t h = 0; h < width; ++h) {
      fk::store(out + t * width + h, (fk::load(x + h) - mean) * scale * fk::load(weight + h) + fk::load(bias + h));
    }
  }
}

void layer_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias,
                double eps) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), fk::data<T>(bias), out.size(0), out.size(1), float(eps));
  });
}
