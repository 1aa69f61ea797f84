# A Python branch on values of the input decides how it is computed: both ways are right, and no graph can hold them.
import torch


def silu_and_mul(out, input):
    gate, up = input.chunk(2, dim=-1)
    if input.numel() and float(gate.max()) > 3:
        out.copy_(gate.sigmoid() * gate * up)
    else:
        torch.mul(torch.nn.functional.silu(gate), up, out=out)
