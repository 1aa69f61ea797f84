# Honest: a narrow guard chooses between two right ways by what the processor can do; what is not covered raises.
import torch

WIDE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def silu_and_mul(out, input):
    if input.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"expected float32 or bfloat16, got {input.dtype}")
    gate, up = input.chunk(2, dim=-1)
    if WIDE:
        torch.mul(torch.nn.functional.silu(gate), up, out=out)
    else:
        out.copy_(gate * gate.sigmoid() * up)
