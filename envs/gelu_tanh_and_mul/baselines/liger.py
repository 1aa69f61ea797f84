"""Liger's GeGLU forward (Triton), which takes gate and up apart and contiguous."""

from liger_kernel.ops.geglu import geglu_forward


def gelu_tanh_and_mul(out, input):
    gate, up = input.chunk(2, dim=-1)
    out.copy_(geglu_forward(gate.contiguous(), up.contiguous())[2])
