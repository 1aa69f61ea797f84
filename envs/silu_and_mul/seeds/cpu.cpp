#include <algorithm>
#include <cstring>
#include <fastkernels.h>

constexpr int64_t kBlock = 1024;  // columns a task: a single decode row still feeds every core

// exp(x) to about 1e-7 for |x| up to 87, beyond that exp(+-87). No call and no branch, so that loops over it vectorise: the limit
// is a minimum of bit patterns, because compilers keep branches for floats that may be NaN.
static inline float exponential(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits & 0x80000000u) | std::min(bits & 0x7fffffffu, 0x42ae0000u);
  std::memcpy(&x, &bits, sizeof x);
  const int32_t n = int32_t(x * 1.44269504f + 128.5f) - 128;  // nearest integer: the sum is positive, truncation rounds it down
  const float r = (x - float(n) * 0.693359375f) + float(n) * 2.12194440e-4f;  // x - n * log(2)
  float p = 1.f / 720.f;
  p = p * r + 1.f / 120.f;
  p = p * r + 1.f / 24.f;
  p = p * r + 1.f / 6.f;
  p = p * r + 0.5f;
  p = (p * r + 1.f) * r + 1.f;
  bits = uint32_t(n + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

template <typename T>
static void run(T* out, const T* input, int64_t rows, int64_t width) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t begin = 0; begin < width; begin += kBlock) {
      const T* gate = input + t * 2 * width;
      const T* up = gate + width;
      T* y = out + t * width;
      const int64_t end = std::min(begin + kBlock, width);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float g = fk::load(gate + i);
        fk::store(y + i, g / (1.f + exponential(-g)) * fk::load(up + i));
      }
    }
  }
}

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), out.size(0), out.size(1));
  });
}
