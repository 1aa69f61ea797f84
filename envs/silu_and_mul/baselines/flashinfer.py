"""FlashInfer's kernel, as SGLang calls it."""

from flashinfer.activation import silu_and_mul as flashinfer_silu_and_mul


def silu_and_mul(out, input):
    flashinfer_silu_and_mul(input, out=out)
