#include <algorithm>
#include <cmath>
#include <cstring>
#include <fastkernels.h>
#include <vector>

constexpr int kGroup = 128;
constexpr float kLargest = 448.f, kLeastScale = 1.f / (448.f * 512.f);

static inline uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}

// The float8_e4m3fn nearest to v, ties to even, clamped to the largest: 4 bits of exponent with bias 7, 3 of mantissa.
static inline uint8_t to_fp8(float v) {
  const float a = std::min(std::fabs(v), kLargest);
  const uint32_t bits = bits_of(a);
  const uint32_t normal = ((bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20) - (120u << 3);
  const uint32_t small = bits_of(a + 16384.f) - bits_of(16384.f);  // the spacing there is 2^-9, as that of subnormals
  return uint8_t((bits_of(v) >> 24 & 0x80u) | (a < 0.015625f ? small : normal));
}

template <typename T>
static void run(uint8_t* result, const T* input, const T* weight, float* scale, float epsilon, T* residual, int64_t rows, int64_t width) {
  const int64_t groups = width / kGroup;
#pragma omp parallel
  {
    std::vector<float> held(width);  // the unrounded sum, which the norm is taken of
    float* sum = held.data();
#pragma omp for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const T* x = input + t * width;
      T* r = residual + t * width;
      float squares = 0.f;
#pragma omp simd reduction(+ : squares)
      for (int64_t h = 0; h < width; ++h) {
        const float v = fk::load(x + h) + fk::load(r + h);
        fk::store(r + h, v);
        sum[h] = v;
        squares += v * v;
      }
      const float inverse = 1.f / std::sqrt(squares / float(width) + epsilon);
      for (int64_t g = 0; g < groups; ++g) {
        float* y = sum + g * kGroup;
        const T* gain = weight + g * kGroup;
        float largest = 0.f;
#pragma omp simd reduction(max : largest)
        for (int i = 0; i < kGroup; ++i) {
          y[i] *= inverse * fk::load(gain + i);
          largest = std::max(largest, std::fabs(y[i]));
        }
        const float s = std::max(largest / kLargest, kLeastScale);
        scale[t * groups + g] = s;
        uint8_t* codes = result + t * width + g * kGroup;
#pragma omp simd
        for (int i = 0; i < kGroup; ++i) codes[i] = to_fp8(y[i] / s);
      }
    }
  }
}

void add_rms_norm_fp8(tvm::ffi::TensorView result, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, tvm::ffi::TensorView scale,
                      double epsilon, tvm::ffi::TensorView residual) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<uint8_t>(result), fk::data<T>(input), fk::data<T>(weight), fk::data<float>(scale), float(epsilon),
           fk::data<T>(residual), input.size(0), input.size(1));
  });
}
