#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/extra/c_env_api.h>

// One block a row; eight bf16 (16 bytes) a thread and step, kept in registers between the two passes.
constexpr int kThreads = 256;
constexpr int kSteps = 4;

union Pack {
  uint4 raw;
  __nv_bfloat162 pair[4];
};

__global__ void rms_norm_kernel(__nv_bfloat16* out, const __nv_bfloat16* input, const __nv_bfloat16* weight, int width,
                                int64_t stride, float epsilon) {
  const __nv_bfloat16* x = input + blockIdx.x * stride;
  __nv_bfloat16* y = out + int64_t(blockIdx.x) * width;
  Pack held[kSteps];
  float sum = 0.f;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int column = (step * kThreads + threadIdx.x) * 8;
    if (column < width) {
      held[step].raw = *reinterpret_cast<const uint4*>(x + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = __bfloat1622float2(held[step].pair[i]);
        sum += v.x * v.x + v.y * v.y;
      }
    }
  }
  __shared__ float partial[kThreads / 32];
  for (int offset = 16; offset; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0.f;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += partial[warp];
  const float scale = rsqrtf(sum / width + epsilon);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int column = (step * kThreads + threadIdx.x) * 8;
    if (column < width) {
      Pack gain;
      gain.raw = *reinterpret_cast<const uint4*>(weight + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = __bfloat1622float2(held[step].pair[i]);
        const float2 g = __bfloat1622float2(gain.pair[i]);
        held[step].pair[i] = __floats2bfloat162_rn(v.x * scale * g.x, v.y * scale * g.y);
      }
      *reinterpret_cast<uint4*>(y + column) = held[step].raw;
    }
  }
}

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  const int rows = int(input.size(0)), width = int(input.size(1));
  TVM_FFI_ICHECK(width % 8 == 0 && width <= kThreads * kSteps * 8 && input.stride(0) % 8 == 0) << "width out of range";
  if (rows == 0) return;
  auto* stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(input.device().device_type, input.device().device_id));
  rms_norm_kernel<<<rows, kThreads, 0, stream>>>(
      static_cast<__nv_bfloat16*>(out.data_ptr()), static_cast<const __nv_bfloat16*>(input.data_ptr()),
      static_cast<const __nv_bfloat16*>(weight.data_ptr()), width, input.stride(0), float(epsilon));
  TVM_FFI_ICHECK(cudaGetLastError() == cudaSuccess) << "launch failed";
}
