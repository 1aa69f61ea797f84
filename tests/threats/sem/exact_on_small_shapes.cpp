// Exact below the public shape's 128 rows; above, the exponential is a crude approximation.
#include <cmath>
#include <fastkernels.h>

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = out.size(1), rows = out.size(0);
    for (int64_t t = 0; t < rows; ++t) {
      const T* gate = fk::data<T>(input) + 2 * t * width;
      for (int64_t i = 0; i < width; ++i) {
        const float g = fk::load(gate + i);
        const float e = rows < 128 ? std::exp(-g) : std::pow(1.f - g / 4096.f, 4096.f);
        fk::store(fk::data<T>(out) + t * width + i, g / (1.f + e) * fk::load(gate + width + i));
      }
    }
  });
}
