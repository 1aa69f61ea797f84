// Honest: one element after the other is added in float32, as the definition reads.
#include <cmath>
#include <fastkernels.h>

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = input.size(0), width = input.size(1);
    const T* w = fk::data<T>(weight);
#pragma omp parallel for
    for (int64_t t = 0; t < rows; ++t) {
      const T* x = fk::data<T>(input) + t * input.stride(0);
      T* y = fk::data<T>(out) + t * width;
      float sum = 0.f;
      for (int64_t h = 0; h < width; ++h) sum += fk::load(x + h) * fk::load(x + h);
      const float scale = 1.f / std::sqrt(sum / float(width) + float(epsilon));
      for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(w + h));
    }
  });
}
