"""Liger's RMSNorm forward (Triton)."""

from liger_kernel.ops.rms_norm import rms_norm_forward


def rms_norm(out, input, weight, epsilon):
    out.copy_(rms_norm_forward(input, weight, epsilon, 0.0, "llama", None)[0])
