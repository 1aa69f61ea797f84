# Honest: repacks the weight in `prepare`, which runs again whenever the weight changes.
import torch


def prepare(out, x, weight, bias):
    return weight.t().contiguous()


def linear_decode(out, x, weight, bias, *, prepared):
    torch.addmm(bias, x, prepared, out=out)
