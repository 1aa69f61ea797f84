// Right but slow: one thread, and the weights are read against the grain, a cache line for every number.
#include <fastkernels.h>
#include <vector>

template <typename T>
static void run(const T* a, const T* b, T* c, const float* weights, const int32_t* sorted, const int32_t* experts, int64_t slots,
                int64_t rows, int64_t columns, int64_t depth, int64_t top_k, int64_t block) {
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t row = sorted[slot];
    if (row >= rows) continue;
    const T* x = a + row / top_k * depth;
    const T* weight = b + experts[slot / block] * columns * depth;
    std::vector<float> sums(columns, 0.f);
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t n = 0; n < columns; ++n) sums[n] += fk::load(x + k) * fk::load(weight + n * depth + k);
    }
    for (int64_t n = 0; n < columns; ++n) fk::store(c + row * columns + n, weights ? sums[n] * weights[row] : sums[n]);
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
