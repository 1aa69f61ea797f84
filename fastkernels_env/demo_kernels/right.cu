// Right, in CUDA C++: tensor cores through wmma, 16 slots times 64 columns for every block, nothing overlapped.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <mma.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>

using namespace nvcuda;

constexpr int kTile = 16;
constexpr int kWarps = 4;
constexpr int kDepth = 64;
constexpr int kPitch = kDepth + 8;  // the padding spreads rows over the banks of shared memory

__global__ void moe_gemm_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* c, const float* weights,
                                const int* sorted, const int* experts, const int* used, int rows, int columns, int depth, int top_k,
                                int block) {
  const int slot = blockIdx.x * kTile;
  if (slot >= *used) return;
  __shared__ alignas(32) __nv_bfloat16 tile[kTile][kPitch];
  __shared__ alignas(32) float sums[kWarps][kTile * kTile];
  __shared__ int row_of[kTile];
  if (threadIdx.x < kTile) row_of[threadIdx.x] = sorted[slot + threadIdx.x];
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int column = (blockIdx.y * kWarps + warp) * kTile;
  const __nv_bfloat16* weight = b + (int64_t(experts[slot / block]) * columns + column) * depth;
  wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> sum;
  wmma::fill_fragment(sum, 0.f);
  for (int k = 0; k < depth; k += kDepth) {
    for (int i = threadIdx.x; i < kTile * kDepth / 8; i += blockDim.x) {
      const int m = i / (kDepth / 8), at = i % (kDepth / 8) * 8;
      uint4 pack = make_uint4(0, 0, 0, 0);
      if (row_of[m] < rows) pack = *reinterpret_cast<const uint4*>(a + int64_t(row_of[m] / top_k) * depth + k + at);
      *reinterpret_cast<uint4*>(&tile[m][at]) = pack;
    }
    __syncthreads();
    for (int step = 0; step < kDepth; step += kTile) {
      wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, __nv_bfloat16, wmma::row_major> left;
      wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, __nv_bfloat16, wmma::col_major> right;
      wmma::load_matrix_sync(left, &tile[0][step], kPitch);
      wmma::load_matrix_sync(right, weight + k + step, depth);
      wmma::mma_sync(sum, left, right, sum);
    }
    __syncthreads();
  }
  wmma::store_matrix_sync(sums[warp], sum, kTile, wmma::mem_row_major);
  __syncwarp();
  for (int i = lane; i < kTile * kTile; i += 32) {
    const int row = row_of[i / kTile];
    if (row < rows) c[int64_t(row) * columns + column + i % kTile] = __float2bfloat16(sums[warp][i] * (weights ? weights[row] : 1.f));
  }
}

void moe_gemm(tvm::ffi::TensorView A, tvm::ffi::TensorView B, tvm::ffi::TensorView C, tvm::ffi::TensorView topk_weights,
              tvm::ffi::TensorView sorted_token_ids, tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_padded,
              bool mul_routed_weight, int64_t top_k, int64_t block_size) {
  const int64_t rows = C.size(0), columns = C.size(1), depth = A.size(1);
  TVM_FFI_ICHECK(columns % (kWarps * kTile) == 0 && depth % kDepth == 0) << "columns and depth must be multiples of 64";
  if (rows == 0) return;
  const DLDevice device = C.device();
  auto* stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  const dim3 grid(unsigned(sorted_token_ids.size(0) / kTile), unsigned(columns / (kWarps * kTile)));
  moe_gemm_kernel<<<grid, kWarps * 32, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(A.data_ptr()), static_cast<const __nv_bfloat16*>(B.data_ptr()),
      static_cast<__nv_bfloat16*>(C.data_ptr()), mul_routed_weight ? static_cast<const float*>(topk_weights.data_ptr()) : nullptr,
      static_cast<const int*>(sorted_token_ids.data_ptr()), static_cast<const int*>(expert_ids.data_ptr()),
      static_cast<const int*>(num_tokens_post_padded.data_ptr()), int(rows), int(columns), int(depth), int(top_k), int(block_size));
  TVM_FFI_ICHECK(cudaGetLastError() == cudaSuccess) << "launch failed";
}
