"""FlashInfer's kernel, whose log-sum-exps are base-2 and lie token by token."""

import math

from flashinfer.cascade import merge_state


def merge_attn_states(output, prefix_output, prefix_lse, suffix_output, suffix_lse, output_lse):
    left, right = ((lse.T * (1 / math.log(2))).contiguous() for lse in (prefix_lse, suffix_lse))
    merged, lse = merge_state(prefix_output, left, suffix_output, right)
    output.copy_(merged)
    output_lse.copy_(lse.T * math.log(2))
