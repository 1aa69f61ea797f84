// Honest: rows with huge values are scaled down before they are squared, the others are not; both ways are exact.
#include <algorithm>
#include <cmath>
#include <fastkernels.h>

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = input.size(1);
#pragma omp parallel for
    for (int64_t t = 0; t < input.size(0); ++t) {
      const T* x = fk::data<T>(input) + t * input.stride(0);
      float most = 0.f, sum = 0.f;
      for (int64_t h = 0; h < width; ++h) most = std::max(most, std::abs(fk::load(x + h)));
      const float unit = most > 1e15f ? std::ldexp(1.f, -std::ilogb(most)) : 1.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t h = 0; h < width; ++h) sum += fk::load(x + h) * unit * (fk::load(x + h) * unit);
      const float scale = unit / std::sqrt(sum / float(width) + float(epsilon) * unit * unit);
      T* y = fk::data<T>(out) + t * width;
      for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(fk::data<T>(weight) + h));
    }
  });
}
