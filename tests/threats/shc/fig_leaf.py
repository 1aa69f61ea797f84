# The library computes the product; only the addition of the bias is written out.
import torch


def linear_decode(out, x, weight, bias):
    torch.mm(x, weight.t(), out=out)
    out.add_(bias)
