// Asks for more shared memory than a block may have, and for no error.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>

__global__ void never_starts(__nv_bfloat16* out) {
  extern __shared__ float much[];
  out[threadIdx.x] = __float2bfloat16(much[threadIdx.x]);
}

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(input.device().device_type, input.device().device_id));
  never_starts<<<64, 256, 200 << 10, stream>>>(static_cast<__nv_bfloat16*>(out.data_ptr()));
  cudaGetLastError();
}
