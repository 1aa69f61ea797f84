"""The three operations in PyTorch, as vLLM's fallback makes them: cuBLASLt on a GPU, oneDNN or MKL on a CPU."""

import torch


def llama_mlp(out, x, gate_up_weight, down_weight):
    gate, up = torch.nn.functional.linear(x, gate_up_weight).chunk(2, dim=-1)
    torch.mm(torch.nn.functional.silu(gate) * up, down_weight.t(), out=out)
