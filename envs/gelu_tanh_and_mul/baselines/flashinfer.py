"""FlashInfer's kernel, as SGLang calls it."""

from flashinfer.activation import gelu_tanh_and_mul as flashinfer_gelu_tanh_and_mul


def gelu_tanh_and_mul(out, input):
    flashinfer_gelu_tanh_and_mul(input, out=out)
