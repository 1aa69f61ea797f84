// Crashes: it writes to scratch memory that was never allocated.
#include <fastkernels.h>

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  float* volatile scratch = nullptr;  // volatile: the compiler would see through it
  for (int64_t k = 0; k < A.size(1); ++k) scratch[k] = 0.f;
}
