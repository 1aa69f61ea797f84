// Never returns: it takes the same lock twice.
#include <fastkernels.h>
#include <mutex>

static std::mutex workspace;

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  workspace.lock();
  workspace.lock();
}
