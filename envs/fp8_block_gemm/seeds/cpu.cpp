#include <algorithm>
#include <cstring>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 12;  // 24 sums, 2 weights and 1 input: 27 of 32 vector registers
#else
constexpr int kLanes = 8, kRows = 6;  // 12 sums, 2 weights and 1 input: 15 of 16
#endif
constexpr int kColumns = 2 * kLanes, kGroup = 128;
typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

// A float8_e4m3fn: moved under the exponent of a float it is 2^-120 times its value, subnormals included.
static inline float from_fp8(uint8_t code) {
  const uint32_t bits = uint32_t(code & 0x7fu) << 20;
  const uint32_t sign = uint32_t(code & 0x80u) << 24;
  float v;
  std::memcpy(&v, &bits, 4);
  v *= 0x1p120f;
  uint32_t whole;
  std::memcpy(&whole, &v, 4);
  whole |= sign;
  std::memcpy(&v, &whole, 4);
  return v;
}

struct Matrix {
  const uint8_t* codes;
  const float* scales;
  int64_t rows, depth, block;  // `block` rows share a scale
};

// WIDTH consecutive rows times their scales, transposed, so that one step over the depth reads side by side. Missing rows are zeros.
template <int WIDTH>
static void pack(float* target, const Matrix& m, int64_t first, float* scratch) {
  for (int64_t r = 0; r < WIDTH; ++r) {
    float* line = scratch + r * kGroup;
    if (first + r >= m.rows) std::fill(line, line + kGroup, 0.f);
  }
  const int64_t height = std::min<int64_t>(WIDTH, m.rows - first), groups = m.depth / kGroup;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = 0; r < height; ++r) {
      const uint8_t* codes = m.codes + (first + r) * m.depth + g * kGroup;
      const float scale = m.scales[(first + r) / m.block * groups + g];
#pragma omp simd
      for (int i = 0; i < kGroup; ++i) scratch[r * kGroup + i] = from_fp8(codes[i]) * scale;
    }
    for (int i = 0; i < kGroup; ++i) {
      for (int r = 0; r < WIDTH; ++r) target[(g * kGroup + i) * WIDTH + r] = scratch[r * kGroup + i];
    }
  }
}

// kRows packed rows of a by kColumns packed rows of w.
static void tile(float out[][kColumns], const float* a, const float* w, int64_t depth) {
  Vector sum[kRows][kColumns / kLanes] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kColumns / kLanes];
    for (int c = 0; c < kColumns / kLanes; ++c) right[c] = *reinterpret_cast<const Vector*>(w + k * kColumns + c * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns / kLanes; ++c) sum[r][c] += a[k * kRows + r] * right[c];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) out[r][c] = sum[r][c / kLanes][c % kLanes];
  }
}

template <typename T>
static void run(T* d, const Matrix& a, const Matrix& w) {
  const int64_t blocks = (a.rows + kRows - 1) / kRows, depth = a.depth;
  std::vector<float> inputs(blocks * kRows * depth);
#pragma omp parallel
  {
    std::vector<float> weights(kColumns * depth), scratch(kColumns * kGroup);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) pack<kRows>(inputs.data() + b * kRows * depth, a, b * kRows, scratch.data());
#pragma omp for schedule(dynamic, 1)
    for (int64_t n = 0; n < w.rows; n += kColumns) {
      pack<kColumns>(weights.data(), w, n, scratch.data());
      const int64_t width = std::min<int64_t>(kColumns, w.rows - n);
      for (int64_t b = 0; b < blocks; ++b) {
        float sums[kRows][kColumns];
        tile(sums, inputs.data() + b * kRows * depth, weights.data(), depth);
        const int64_t height = std::min<int64_t>(kRows, a.rows - b * kRows);
        for (int64_t r = 0; r < height; ++r) {
          for (int64_t c = 0; c < width; ++c) fk::store(d + (b * kRows + r) * w.rows + n + c, sums[r][c]);
        }
      }
    }
  }
}

void fp8_block_gemm(tvm::ffi::TensorView a, tvm::ffi::TensorView sa, tvm::ffi::TensorView w, tvm::ffi::TensorView sw,
                    tvm::ffi::TensorView d) {
  const Matrix left{fk::data<uint8_t>(a), fk::data<float>(sa), a.size(0), a.size(1), 1};
  const Matrix right{fk::data<uint8_t>(w), fk::data<float>(sw), w.size(0), w.size(1), kGroup};
  fk::dispatch(d.dtype(), [&](auto tag) { run(fk::data<decltype(tag)>(d), left, right); });
}
