# One workspace for all streams: two calls at once write to the same memory.
import torch
import triton
import triton.language as tl


@triton.jit
def _copy(scratch, x, width, stride, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = column < width
    tl.store(scratch + row * width + column, tl.load(x + row * stride + column, mask=mask, other=0.0).to(tl.float32), mask=mask)


@triton.jit
def _norm(out, scratch, weight, width, epsilon, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = column < width
    values = tl.load(scratch + row * width + column, mask=mask, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)
    gain = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (values * scale * gain).to(out.dtype.element_ty), mask=mask)


workspace = torch.empty(1 << 25, device="cuda")


def rms_norm(out, input, weight, epsilon):
    global workspace
    rows, width = input.shape
    if rows * width > workspace.numel():
        workspace = torch.empty(rows * width, device=input.device)
    if rows:
        block = triton.next_power_of_2(width)
        _copy[(rows,)](workspace, input, width, input.stride(0), BLOCK=block)
        _norm[(rows,)](out, workspace, weight, width, epsilon, BLOCK=block)
