#include <cmath>
#include <fastkernels.h>
#include <vector>

template <typename T>
static void run(T* input, T* residual, const T* weight, int64_t rows, int64_t width, float epsilon) {
#pragma omp parallel
  {
    std::vector<float> held(width);  // the unrounded sum, which the norm is taken of
    float* sum = held.data();
#pragma omp for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      T* x = input + t * width;
      T* r = residual + t * width;
      float squares = 0.f;
#pragma omp simd reduction(+ : squares)
      for (int64_t h = 0; h < width; ++h) {
        const float v = fk::load(x + h) + fk::load(r + h);
        fk::store(r + h, v);
        sum[h] = v;
        squares += v * v;
      }
      const float scale = 1.f / std::sqrt(squares / float(width) + epsilon);
#pragma omp simd
      for (int64_t h = 0; h < width; ++h) fk::store(x + h, sum[h] * scale * fk::load(weight + h));
    }
  }
}

void fused_add_rms_norm(tvm::ffi::TensorView input, tvm::ffi::TensorView residual, tvm::ffi::TensorView weight, double epsilon) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(input), fk::data<T>(residual), fk::data<T>(weight), input.size(0), input.size(1), float(epsilon));
  });
}
