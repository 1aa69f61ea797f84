"""The merge in PyTorch, in float32."""

import torch


def merge_attn_states(output, prefix_output, prefix_lse, suffix_output, suffix_lse, output_lse):
    merged = torch.logaddexp(prefix_lse, suffix_lse)
    left, right = ((lse - merged).exp().T.unsqueeze(-1) for lse in (prefix_lse, suffix_lse))
    output.copy_(left * prefix_output + right * suffix_output)
    output_lse.copy_(merged)
