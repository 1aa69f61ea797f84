"""FlashInfer's RMSNorm, as vLLM and SGLang call it."""

from flashinfer.norm import rmsnorm


def rms_norm(out, input, weight, epsilon):
    rmsnorm(input, weight, epsilon, out=out)
