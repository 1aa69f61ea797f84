#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/extra/c_env_api.h>

// Packs of eight bf16 (16 bytes), numbered over the whole output: rows of any width fill the blocks evenly.
constexpr int kThreads = 256;
constexpr int kSteps = 2;

union Pack {
  uint4 raw;
  __nv_bfloat162 pair[4];
};

__device__ float silu(float gate) { return __fdividef(gate, 1.f + __expf(-gate)); }

__global__ void silu_and_mul_kernel(uint4* out, const uint4* input, uint32_t packs, uint32_t packs_a_row) {
  const uint32_t first = blockIdx.x * (kThreads * kSteps) + threadIdx.x;
  Pack gate[kSteps], up[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint32_t pack = first + step * kThreads;
    if (pack < packs) {
      // Input row r starts at pack 2 * r * packs_a_row, and pack = r * packs_a_row + column.
      const int64_t at = int64_t(pack) + int64_t(pack / packs_a_row) * packs_a_row;
      gate[step].raw = input[at];
      up[step].raw = input[at + packs_a_row];
    }
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint32_t pack = first + step * kThreads;
    if (pack < packs) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 g = __bfloat1622float2(gate[step].pair[i]);
        const float2 u = __bfloat1622float2(up[step].pair[i]);
        gate[step].pair[i] = __floats2bfloat162_rn(silu(g.x) * u.x, silu(g.y) * u.y);
      }
      out[pack] = gate[step].raw;
    }
  }
}

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  const int64_t rows = out.size(0), width = out.size(1), packs = rows * width / 8;
  TVM_FFI_ICHECK(width % 8 == 0 && packs < int64_t(1) << 31) << "shape out of range";
  if (packs == 0) return;
  auto* stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(input.device().device_type, input.device().device_id));
  const int blocks = int((packs + kThreads * kSteps - 1) / (kThreads * kSteps));
  silu_and_mul_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<uint4*>(out.data_ptr()),
                                                       static_cast<const uint4*>(input.data_ptr()), uint32_t(packs),
                                                       uint32_t(width / 8));
  TVM_FFI_ICHECK(cudaGetLastError() == cudaSuccess) << "launch failed";
}
