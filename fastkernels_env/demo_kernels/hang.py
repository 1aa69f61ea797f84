# Never returns: it takes the same lock twice.
import threading

workspace = threading.Lock()


def moe_gemm(A, B, C, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight, top_k, block_size):
    workspace.acquire()
    workspace.acquire()
