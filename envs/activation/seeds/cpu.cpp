#include <algorithm>
#include <cmath>
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

static inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

// (1 - erf(z)) / 2 for z >= 0, with a relative error of about 1e-7 (a Chebyshev fit): 1 + erf(x) would cancel in the tail.
static inline float tail(float z) {
  const float t = 1.f / (1.f + 0.5f * z);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  return 0.5f * t * exponential(p * t - 1.26551223f - z * z);
}

static inline float gelu(float x) {
  const float half = tail(std::fabs(x) * 0.70710678f);
  return x * (x < 0.f ? half : 1.f - half);
}

template <typename T, typename F>
static void run(T* out, const T* input, int64_t rows, int64_t width, int64_t stride, F f) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t begin = 0; begin < width; begin += kBlock) {
      const T* x = input + t * stride;
      T* y = out + t * width;
      const int64_t end = std::min(begin + kBlock, width);
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) fk::store(y + i, f(fk::load(x + i)));
    }
  }
}

void activation(tvm::ffi::TensorView out, tvm::ffi::TensorView input, int64_t kind) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto each = [&](auto f) { run(fk::data<T>(out), fk::data<T>(input), out.size(0), out.size(1), input.stride(0), f); };
    switch (kind) {
      case 0: return each([](float x) { return std::max(x, 0.f); });
      case 1: return each([](float x) { return gelu(x); });
      case 2: return each([](float x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); });
      case 3: return each([](float x) { return x * sigmoid(1.702f * x); });
      case 4: return each([](float x) { return x * sigmoid(x); });
      case 5: return each([](float x) { return std::max(x, 0.f) * std::max(x, 0.f); });
      case 6: return each([](float x) { return x * std::min(std::max(x + 3.f, 0.f), 6.f) * (1.f / 6.f); });
      default: return each([](float x) { return sigmoid(x); });
    }
  });
}
