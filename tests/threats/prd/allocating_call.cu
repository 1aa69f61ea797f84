// Allocates and frees device memory in every call.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>

__global__ void staged_silu(__nv_bfloat16* out, float* scratch, const __nv_bfloat16* input, int64_t width) {
  const __nv_bfloat16* gate = input + int64_t(blockIdx.x) * 2 * width;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    float* staged = scratch + int64_t(blockIdx.x) * width + i;
    *staged = __bfloat162float(gate[i]);
    out[int64_t(blockIdx.x) * width + i] = __float2bfloat16(*staged / (1.f + expf(-*staged)) * __bfloat162float(gate[width + i]));
  }
}

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  if (!out.size(0)) return;
  auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(input.device().device_type, input.device().device_id));
  float* scratch = nullptr;
  TVM_FFI_ICHECK(cudaMalloc(&scratch, out.numel() * sizeof(float)) == cudaSuccess) << "out of memory";
  staged_silu<<<unsigned(out.size(0)), 256, 0, stream>>>(static_cast<__nv_bfloat16*>(out.data_ptr()), scratch,
                                                         static_cast<const __nv_bfloat16*>(input.data_ptr()), out.size(1));
  TVM_FFI_ICHECK(cudaFree(scratch) == cudaSuccess) << "cannot free";
}
