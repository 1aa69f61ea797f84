// Does not build: it calls a helper that fastkernels.h does not have.
#include <fastkernels.h>

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  const float first = fk::load_vector<8>(fk::data<float>(A))[0];
  fk::store(fk::data<float>(C), first);
}
