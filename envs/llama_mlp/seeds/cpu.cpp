#include <algorithm>
#include <cmath>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 6;  // 6 x 4 sums, 4 weights and 1 input: 29 of 32 vector registers
#else
constexpr int kLanes = 8, kRows = 2;  // 2 x 4 sums, 4 weights and 1 input: 13 of 16
#endif
constexpr int kColumns = 4, kPairs = kColumns / 2;
typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

// out[r][c] = dot(x + r * depth, weight[c]): R x kColumns dot products that share their loads.
template <int R>
static void dots(float out[][kColumns], const float* x, const float* const* weight, int64_t depth) {
  Vector sum[R][kColumns] = {};
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    Vector w[kColumns];
    for (int c = 0; c < kColumns; ++c) w[c] = *reinterpret_cast<const Vector*>(weight[c] + k);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Vector v = *reinterpret_cast<const Vector*>(x + r * depth + k);
      for (int c = 0; c < kColumns; ++c) sum[r][c] += v * w[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[r][c][lane];
      for (int64_t i = k; i < depth; ++i) total += x[r * depth + i] * weight[c][i];
      out[r][c] = total;
    }
  }
}

static const float* widen(const float* source, float*, int64_t) { return source; }

static const float* widen(const fk::bf16* source, float* scratch, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scratch[i] = fk::load(source + i);
  return scratch;
}

// Calls emit(row, sums) for every row of x, with its products with four weight rows, which are read once.
template <typename T, typename Emit>
static void multiply(const float* x, int64_t rows, const T* const* weight, int64_t depth, float* scratch, Emit&& emit) {
  const float* wide[kColumns];
  for (int c = 0; c < kColumns; ++c) wide[c] = widen(weight[c], scratch + c * depth, depth);
  float sums[kRows][kColumns];
  int64_t m = 0;
  for (; m + kRows <= rows; m += kRows) {
    dots<kRows>(sums, x + m * depth, wide, depth);
    for (int r = 0; r < kRows; ++r) emit(m + r, sums[r]);
  }
  for (; m < rows; ++m) {
    dots<1>(sums, x + m * depth, wide, depth);
    emit(m, sums[0]);
  }
}

template <typename T>
static void run(T* out, const T* x, const T* gate_up, const T* down, int64_t tokens, int64_t H, int64_t I) {
  std::vector<float> inputs(tokens * H), hidden(tokens * I);
#pragma omp parallel
  {
    std::vector<float> scratch(kColumns * std::max(H, I));
    const T* rows[kColumns];
#pragma omp for simd schedule(static)
    for (int64_t i = 0; i < tokens * H; ++i) inputs[i] = fk::load(x + i);
#pragma omp for schedule(dynamic, 8)
    for (int64_t n = 0; n < I; n += kPairs) {
      const int64_t width = std::min<int64_t>(kPairs, I - n);
      // Past the edge the last row is computed again and not stored.
      for (int j = 0; j < kPairs; ++j) {
        rows[j] = gate_up + (n + std::min<int64_t>(j, width - 1)) * H;
        rows[kPairs + j] = rows[j] + I * H;
      }
      multiply(inputs.data(), tokens, rows, H, scratch.data(), [&](int64_t t, const float* sum) {
        for (int64_t j = 0; j < width; ++j) hidden[t * I + n + j] = sum[j] / (1.f + std::exp(-sum[j])) * sum[kPairs + j];
      });
    }
#pragma omp for schedule(dynamic, 8)
    for (int64_t n = 0; n < H; n += kColumns) {
      const int64_t width = std::min<int64_t>(kColumns, H - n);
      for (int j = 0; j < kColumns; ++j) rows[j] = down + (n + std::min<int64_t>(j, width - 1)) * I;
      multiply(hidden.data(), tokens, rows, I, scratch.data(), [&](int64_t t, const float* sum) {
        for (int64_t j = 0; j < width; ++j) fk::store(out + t * H + n + j, sum[j]);
      });
    }
  }
}

void llama_mlp(tvm::ffi::TensorView out, tvm::ffi::TensorView x, tvm::ffi::TensorView gate_up_weight,
               tvm::ffi::TensorView down_weight) {
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(x), fk::data<T>(gate_up_weight), fk::data<T>(down_weight), out.size(0), out.size(1),
           down_weight.size(1));
  });
}
