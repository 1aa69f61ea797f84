#include <algorithm>
#include <fastkernels.h>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int kRows = 2;     // rows of A in a register tile
constexpr int kColumns = 6;  // rows of B in a register tile: 2 x 6 sums fill the 16 vector registers
constexpr int kSpan = 48;    // columns of C in a unit of work

// out[m][n] = dot(a + m * K, b + n * K): R x S dot products that share their loads.
template <int R, int S>
static void dots(const float* a, const float* b, int64_t K, float out[][kColumns]) {
  Vec sum[R][S] = {};
  int64_t k = 0;
  for (; k + kLanes <= K; k += kLanes) {
    Vec y[S];
    for (int n = 0; n < S; ++n) y[n] = *reinterpret_cast<const Vec*>(b + n * K + k);
    for (int m = 0; m < R; ++m) {
      const Vec x = *reinterpret_cast<const Vec*>(a + m * K + k);
      for (int n = 0; n < S; ++n) sum[m][n] += x * y[n];
    }
  }
  for (int m = 0; m < R; ++m) {
    for (int n = 0; n < S; ++n) {
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[m][n][lane];
      for (int64_t i = k; i < K; ++i) total += a[m * K + i] * b[n * K + i];
      out[m][n] = total;
    }
  }
}

// One register tile, cut to `height` rows and `width` columns at the edges.
static void tile(int height, int width, const float* a, const float* b, int64_t K, float out[][kColumns]) {
  if (height == kRows && width == kColumns) return dots<kRows, kColumns>(a, b, K, out);
  if (width == kColumns) return dots<1, kColumns>(a, b, K, out);
  for (int m = 0; m < height; ++m) {
    for (int n = 0; n < width; ++n) {
      float single[1][kColumns];
      dots<1, 1>(a + m * K, b + n * K, K, single);
      out[m][n] = single[0][0];
    }
  }
}

static const float* widen(const float* source, float*, int64_t) { return source; }

static const float* widen(const fk::bf16* source, float* scratch, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) scratch[i] = fk::load(source + i);
  return scratch;
}

// One unit of work: the rows of a block times a span of its expert's weight, which is read from memory once.
template <typename T>
static void unit(T* c, const float* a, const T* b, const std::vector<int32_t>& rows, const float* scale, int64_t first, int64_t last,
                 int64_t N, int64_t K, float* scratch) {
  const int count = int(rows.size());
  for (int64_t n = first; n < last; n += kColumns) {
    const int width = int(std::min<int64_t>(kColumns, last - n));
    const float* weight = widen(b + n * K, scratch, width * K);
    for (int m = 0; m < count; m += kRows) {
      const int height = std::min(kRows, count - m);
      float out[kRows][kColumns];
      tile(height, width, a + m * K, weight, K, out);
      for (int i = 0; i < height; ++i) {
        const int64_t row = rows[m + i];
        const float factor = scale ? scale[row] : 1.f;
        for (int j = 0; j < width; ++j) fk::store(c + row * N + n + j, out[i][j] * factor);
      }
    }
  }
}

template <typename T>
static void run(const T* a, const T* b, T* c, const float* scale, const int32_t* sorted, const int32_t* experts, int64_t padded,
                int64_t total_rows, int64_t N, int64_t K, int64_t top_k, int64_t block) {
  const int64_t blocks = padded / block;
  const int64_t spans = (N + kSpan - 1) / kSpan;
#pragma omp parallel
  {
    std::vector<float> packed(block * K), scratch(kColumns * K);
    std::vector<int32_t> rows;
    int64_t held = -1;
#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < blocks * spans; ++task) {
      const int64_t at = task / spans, first = task % spans * kSpan;
      if (at != held) {
        rows.clear();
        for (int64_t slot = at * block; slot < (at + 1) * block; ++slot) {
          if (sorted[slot] >= total_rows) continue;
          const T* x = a + sorted[slot] / top_k * K;
          float* y = packed.data() + rows.size() * K;
#pragma omp simd
          for (int64_t k = 0; k < K; ++k) y[k] = fk::load(x + k);
          rows.push_back(sorted[slot]);
        }
        held = at;
      }
      unit(c, packed.data(), b + experts[at] * N * K, rows, scale, first, std::min(N, first + kSpan), N, K, scratch.data());
    }
  }
}

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  const float* scale = mul_routed_weight ? fk::data<float>(topk_weights) : nullptr;
  fk::dispatch(C.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(A), fk::data<T>(B), fk::data<T>(C), scale, fk::data<int32_t>(sorted_token_ids), fk::data<int32_t>(expert_ids),
           *fk::data<int32_t>(num_tokens_post_padded), C.size(0), C.size(1), A.size(1), top_k, block_size);
  });
}
