# Honest: keeps what it found out about a buffer (its halves) by address in a bounded cache; answers are computed anew.
import torch

views = {}


def silu_and_mul(out, input):
    key = (input.data_ptr(), input.shape, input.dtype)
    if key not in views:
        if len(views) >= 64:
            views.clear()
        views[key] = input.shape[1] // 2
    half = views[key]
    torch.mul(torch.nn.functional.silu(input[:, :half]), input[:, half:], out=out)
