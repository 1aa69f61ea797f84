#include <algorithm>
#include <fastkernels.h>
#include <vector>

// A counting sort. Prefills have some thousand pairs, decode steps some hundred: waking other threads takes longer than to sort them.
void moe_align_block_size(tvm::ffi::TensorView topk_ids, int64_t num_experts, int64_t block_size, tvm::ffi::TensorView sorted_token_ids,
                          tvm::ffi::TensorView expert_ids, tvm::ffi::TensorView num_tokens_post_pad) {
  const int64_t pairs = topk_ids.size(0) * topk_ids.size(1), capacity = sorted_token_ids.size(0), all_blocks = expert_ids.size(0);
  const int32_t* ids = fk::data<int32_t>(topk_ids);
  int32_t* slots = fk::data<int32_t>(sorted_token_ids);
  int32_t* owners = fk::data<int32_t>(expert_ids);
  std::vector<int64_t> next(num_experts);  // pairs of an expert, then its next slot
  for (int64_t r = 0; r < pairs; ++r) ++next[ids[r]];
  int64_t block = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t count = next[e], blocks = (count + block_size - 1) / block_size;
    next[e] = block * block_size;
    std::fill(slots + next[e] + count, slots + (block + blocks) * block_size, pairs);
    std::fill(owners + block, owners + block + blocks, e);
    block += blocks;
  }
  for (int64_t r = 0; r < pairs; ++r) slots[next[ids[r]]++] = r;
  std::fill(slots + block * block_size, slots + capacity, pairs);
  std::fill(owners + block, owners + all_blocks, 0);
  *fk::data<int32_t>(num_tokens_post_pad) = block * block_size;
}
