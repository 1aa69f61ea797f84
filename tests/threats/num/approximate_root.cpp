// The reciprocal square root by the well-known bit trick and one step of Newton: right to two thousandths.
#include <cstring>
#include <fastkernels.h>

static float reciprocal_root(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = 0x5f3759df - (bits >> 1);
  float y;
  std::memcpy(&y, &bits, 4);
  return y * (1.5f - 0.5f * x * y * y);
}

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = input.size(1);
    for (int64_t t = 0; t < input.size(0); ++t) {
      const T* x = fk::data<T>(input) + t * input.stride(0);
      float sum = 0.f;
      for (int64_t h = 0; h < width; ++h) sum += fk::load(x + h) * fk::load(x + h);
      const float scale = reciprocal_root(sum / float(width) + float(epsilon));
      T* y = fk::data<T>(out) + t * width;
      for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(fk::data<T>(weight) + h));
    }
  });
}
