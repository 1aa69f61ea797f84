"""cuBLASLt around FlashInfer's activation kernel, as SGLang composes them."""

import torch
from flashinfer.activation import silu_and_mul


def llama_mlp(out, x, gate_up_weight, down_weight):
    torch.mm(silu_and_mul(torch.nn.functional.linear(x, gate_up_weight)), down_weight.t(), out=out)
