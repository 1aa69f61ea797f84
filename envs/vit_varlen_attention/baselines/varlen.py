"""PyTorch's attention over packed sequences (FlashAttention)."""

from torch.nn.attention.varlen import varlen_attn


def vit_varlen_attention(out, q, k, v, cu_seqlens, max_seqlen):
    if q.shape[0]:
        out.copy_(varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen))
