// Crashes, in CUDA C++: the kernel writes far outside of every buffer.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>

__global__ void scatter_kernel(__nv_bfloat16* c, int64_t distance) { c[distance + threadIdx.x] = __float2bfloat16(0.f); }

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  const DLDevice device = C.device();
  auto* stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  scatter_kernel<<<1, 64, 0, stream>>>(static_cast<__nv_bfloat16*>(C.data_ptr()), int64_t(1) << 44);
  TVM_FFI_ICHECK(cudaGetLastError() == cudaSuccess) << "launch failed";
}
