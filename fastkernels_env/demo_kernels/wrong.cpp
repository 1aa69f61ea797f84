// Wrong: every row is multiplied by the weights of expert 0, whatever expert it was routed to.
#include <fastkernels.h>

template <typename T>
static void run(const T* a, const T* b, T* c, const float* weights, const int32_t* sorted, int64_t slots, int64_t rows,
                int64_t columns, int64_t depth, int64_t top_k) {
#pragma omp parallel for schedule(static)
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t row = sorted[slot];
    if (row >= rows) continue;
    const T* x = a + row / top_k * depth;
    for (int64_t n = 0; n < columns; ++n) {
      float sum = 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < depth; ++k) sum += fk::load(x + k) * fk::load(b + n * depth + k);
      fk::store(c + row * columns + n, weights ? sum * weights[row] : sum);
    }
  }
}

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  fk::dispatch(C.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(A), fk::data<T>(B), fk::data<T>(C), mul_routed_weight ? fk::data<float>(topk_weights) : nullptr,
           fk::data<int32_t>(sorted_token_ids), *fk::data<int32_t>(num_tokens_post_padded), C.size(0), C.size(1), A.size(1), top_k);
  });
}
