# Rounds activations and weights to eight-bit floats, scaled by a sample.
import torch


def prepare(out, x, weight, bias):
    scale = weight[:16].abs().max().float() / 448
    return (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float().mul(scale).to(weight.dtype)


def linear_decode(out, x, weight, bias, *, prepared):
    torch.addmm(bias, x.to(torch.float8_e4m3fn).to(x.dtype), prepared.t(), out=out)
