"""PyTorch's grouped matrix product over compacted rows.

The aligned arrays are turned into compact row order and group ends on the device, without a host synchronisation, so that the call
can be captured in a CUDA graph. On CPUs without bfloat16 instructions `prepare` widens the weights once, as an engine does when it
loads the model. There is no compiled variant: Inductor calls the same product, and its shape rule refuses float32.
"""

import torch

WIDEN = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def prepare(
    A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size
):
    return B.float() if WIDEN and B.device.type == "cpu" else B


def moe_gemm(
    A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size, prepared=None
):
    weight = B if prepared is None else prepared
    rows = C.shape[0]
    if rows == 0:
        return
    order, ends = _compact(sorted_token_ids, expert_ids, num_tokens_post_padded, rows, B.shape[0], block_size)
    product = torch._grouped_mm(A.index_select(0, order // top_k).to(weight.dtype), weight.transpose(1, 2), offs=ends)
    if mul_routed_weight:
        product = product.float() * topk_weights.index_select(0, order)[:, None]
    C.index_copy_(0, order, product.to(C.dtype))


def _compact(sorted_ids, expert_ids, used, rows, experts, block):
    """Rows of C sorted by expert, without padding, and the end of every expert in that order."""
    live = sorted_ids < rows
    rank = live.cumsum(0)
    order = torch.empty(rows + 1, dtype=torch.int64, device=sorted_ids.device)
    order.scatter_(0, torch.where(live, rank - 1, rows), sorted_ids.long())
    index = torch.arange(expert_ids.numel(), device=sorted_ids.device)
    owner = torch.where(index < used // block, expert_ids, experts)
    blocks = torch.searchsorted(owner, torch.arange(experts, device=sorted_ids.device, dtype=owner.dtype), right=True)
    ends = torch.where(blocks > 0, rank[(blocks * block - 1).clamp_min(0)], 0)
    return order[:rows], ends.to(torch.int32)
