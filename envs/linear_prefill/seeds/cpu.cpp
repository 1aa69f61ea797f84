#include <algorithm>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 12;  // 24 sums, 2 weights and 1 input: 27 of 32 vector registers
#else
constexpr int kLanes = 8, kRows = 6;  // 12 sums, 2 weights and 1 input: 15 of 16
#endif
constexpr int kColumns = 2 * kLanes;
typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

// WIDTH consecutive rows of a matrix, transposed, so that one step over the depth reads side by side. Missing rows are zeros.
template <int WIDTH, typename T>
static void pack(float* target, const T* source, int64_t rows, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t r = 0; r < WIDTH; ++r) target[k * WIDTH + r] = r < rows ? fk::load(source + r * depth + k) : 0.f;
  }
}

// kRows packed rows of x by kColumns packed rows of weight.
static void tile(float out[][kColumns], const float* x, const float* weight, int64_t depth) {
  Vector sum[kRows][kColumns / kLanes] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector w[kColumns / kLanes];
    for (int c = 0; c < kColumns / kLanes; ++c) w[c] = *reinterpret_cast<const Vector*>(weight + k * kColumns + c * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns / kLanes; ++c) sum[r][c] += x[k * kRows + r] * w[c];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) out[r][c] = sum[r][c / kLanes][c % kLanes];
  }
}

template <typename T>
static void run(T* out, const T* x, const T* weight, const T* bias, int64_t rows, int64_t columns, int64_t depth) {
  const int64_t blocks = (rows + kRows - 1) / kRows;
  std::vector<float> inputs(blocks * kRows * depth);
#pragma omp parallel
  {
    std::vector<float> weights(kColumns * depth);  // stays in the second-level cache while all rows pass by
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
      pack<kRows>(inputs.data() + b * kRows * depth, x + b * kRows * depth, rows - b * kRows, depth);
    }
#pragma omp for schedule(static)
    for (int64_t n = 0; n < columns; n += kColumns) {
      pack<kColumns>(weights.data(), weight + n * depth, columns - n, depth);
      const int64_t width = std::min<int64_t>(kColumns, columns - n);
      for (int64_t b = 0; b < blocks; ++b) {
        float sums[kRows][kColumns];
        tile(sums, inputs.data() + b * kRows * depth, weights.data(), depth);
        const int64_t height = std::min<int64_t>(kRows, rows - b * kRows);
        for (int64_t r = 0; r < height; ++r) {
          T* target = out + (b * kRows + r) * columns + n;
          for (int64_t c = 0; c < width; ++c) fk::store(target + c, sums[r][c] + fk::load(bias + n + c));
        }
      }
    }
  }
}

void linear_prefill(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView bias) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(weight), fk::data<T>(bias), out.size(0), out.size(1), x.size(1));
  });
}
