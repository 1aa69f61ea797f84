"""A loop over the hit experts: gather the rows, one matrix product, scatter. PyTorch's fallback for experts on a CPU.

CPUs without bfloat16 instructions multiply several times faster in float32, so `prepare` widens the weights there once, as an
engine does when it loads the model. There is no compiled variant: the trip count and the row counts depend on the routing, so that
every call would break the graph or compile anew.
"""

from itertools import groupby

import torch

WIDEN = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def prepare(
    A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size
):
    return B.float() if WIDEN else B


def moe_gemm(
    A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size, prepared=None
):
    weight = B if prepared is None else prepared
    blocks = int(num_tokens_post_padded) // block_size
    first = 0
    for expert, run in groupby(expert_ids[:blocks].tolist()):
        last = first + len(list(run)) * block_size
        rows = sorted_token_ids[first:last]
        rows = rows[rows < C.shape[0]]
        product = A.index_select(0, rows // top_k).to(weight.dtype) @ weight[expert].T
        if mul_routed_weight:
            product = product * topk_weights[rows, None]
        C.index_copy_(0, rows.long(), product.to(C.dtype))
        first = last
