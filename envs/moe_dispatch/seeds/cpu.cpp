#include <algorithm>
#include <fastkernels.h>
#include <vector>

// Every rank puts its ids and its tokens where the others see them, and takes what it needs.
template <typename T>
static void run(T* recv, int32_t* recv_source, int32_t* offsets, const T* input, const int32_t* topk_ids, int64_t tokens, int64_t width,
                int64_t top_k, int64_t experts, int64_t capacity, const fk::Comm& comm) {
  const int64_t ranks = comm.world_size(), own = experts / ranks, begin = comm.rank() * own, pairs = tokens * top_k;
  const int64_t row_bytes = width * int64_t(sizeof(T)), ids_bytes = pairs * int64_t(sizeof(int32_t));
  TVM_FFI_ICHECK(ids_bytes + tokens * row_bytes <= comm.room()) << "the workspace does not hold all tokens";
  std::memcpy(comm.mine<char>(), topk_ids, ids_bytes);
  std::memcpy(comm.mine<char>() + ids_bytes, input, tokens * row_bytes);
  comm.barrier();

  std::vector<int64_t> next(own * ranks + 1);  // by local expert and source rank, the row that comes next
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int32_t* ids = comm.theirs<int32_t>(rank);
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t local = ids[i] - begin;
      if (local >= 0 && local < own) ++next[local * ranks + rank + 1];
    }
  }
  for (int64_t i = 0; i < own * ranks; ++i) next[i + 1] += next[i];
  for (int64_t local = 0; local <= own; ++local) offsets[local] = int32_t(next[local * ranks]);

  for (int64_t rank = 0; rank < ranks; ++rank) {
    const T* rows = reinterpret_cast<const T*>(comm.theirs<char>(rank) + ids_bytes);
    const int32_t* ids = comm.theirs<int32_t>(rank);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t local = ids[t * top_k + k] - begin;
        if (local < 0 || local >= own) continue;
        const int64_t row = next[local * ranks + rank]++;
        std::memcpy(recv + row * width, rows + t * width, row_bytes);
        recv_source[row] = int32_t(rank * tokens + t);
      }
    }
  }
  const int64_t received = offsets[own];
  std::memset(recv + received * width, 0, (capacity - received) * row_bytes);
  std::fill(recv_source + received, recv_source + capacity, -1);
}

void moe_dispatch(tvm::ffi::TensorView recv, tvm::ffi::TensorView recv_source, tvm::ffi::TensorView expert_offsets,
                  tvm::ffi::TensorView input, tvm::ffi::TensorView topk_ids, int64_t num_experts, tvm::ffi::TensorView comm) {
  fk::dispatch(input.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(recv), fk::data<int32_t>(recv_source), fk::data<int32_t>(expert_offsets), fk::data<T>(input),
           fk::data<int32_t>(topk_ids), input.size(0), input.size(1), topk_ids.size(1), num_experts, recv.size(0), fk::Comm(comm));
  });
}
