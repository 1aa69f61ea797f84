# Subclasses the library's module and adds nothing.
import torch


class Norm(torch.nn.RMSNorm):
    pass


modules = {}


def rms_norm(out, input, weight, epsilon):
    norm = modules.setdefault(input.shape[-1], Norm(input.shape[-1], eps=epsilon, elementwise_affine=False))
    out.copy_(norm(input) * weight)
