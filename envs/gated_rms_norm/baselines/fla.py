"""flash-linear-attention's fused kernel (Triton)."""

from fla.modules.norm.fused_norm_gate import rms_norm_gated


def gated_rms_norm(out, x, gate, weight, eps, sigmoid):
    out.copy_(rms_norm_gated(x, gate, weight, None, activation="sigmoid" if sigmoid else "swish", eps=eps))
