# A kernel that waits for a word that nobody writes.
import torch
import triton
import triton.language as tl


@triton.jit
def _spin(flag):
    while tl.load(flag, volatile=True) != 12345:
        pass


def rms_norm(out, input, weight, epsilon):
    _spin[(1,)](torch.zeros(1, dtype=torch.int32, device=out.device))
