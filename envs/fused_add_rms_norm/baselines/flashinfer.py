"""FlashInfer's fused kernel, as SGLang calls it."""

from flashinfer.norm import fused_add_rmsnorm


def fused_add_rms_norm(input, residual, weight, epsilon):
    fused_add_rmsnorm(input, residual, weight, epsilon)
