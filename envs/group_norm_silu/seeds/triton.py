import torch
import triton
import triton.language as tl


@triton.jit
def _place(group, element, groups, width, pixels, LAST: tl.constexpr):
    """Offset and channel of a group's element; `group` counts the groups of all images."""
    image, own = (group // groups).to(tl.int64), group % groups
    line = element // (width if LAST else pixels)
    within = element % (width if LAST else pixels)
    channel = own * width + (within if LAST else line)
    start = image * groups * width * pixels
    return start + (line.to(tl.int64) * groups * width + channel if LAST else channel.to(tl.int64) * pixels + within), channel


@triton.jit
def _moments(partial, x, groups, width, pixels, LAST: tl.constexpr, BLOCK: tl.constexpr):
    group, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    element = chunk * BLOCK + tl.arange(0, BLOCK)
    mask = element < width * pixels
    at, _ = _place(group, element, groups, width, pixels, LAST)
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / tl.minimum(width * pixels - chunk * BLOCK, BLOCK)
    centred = tl.where(mask, values - mean, 0.0)
    tl.store(partial + (group * chunks + chunk) * 2, mean)
    tl.store(partial + (group * chunks + chunk) * 2 + 1, tl.sum(centred * centred, 0))


@triton.jit
def _normalise(out, x, partial, weight, bias, groups, width, pixels, eps, LAST: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    group, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    other = tl.arange(0, CHUNKS)
    means = tl.load(partial + (group * chunks + other) * 2, mask=other < chunks, other=0.0)
    squares = tl.load(partial + (group * chunks + other) * 2 + 1, mask=other < chunks, other=0.0)
    counts = tl.maximum(tl.minimum(width * pixels - other * BLOCK, BLOCK), 0).to(tl.float32)
    means, squares = tl.where(counts > 0, means, 0.0), tl.where(counts > 0, squares, 0.0)
    mean = tl.sum(means * counts, 0) / (width * pixels)
    spread = tl.sum(squares + counts * (means - mean) * (means - mean), 0) / (width * pixels)
    element = chunk * BLOCK + tl.arange(0, BLOCK)
    mask = element < width * pixels
    at, channel = _place(group, element, groups, width, pixels, LAST)
    gain = tl.load(weight + channel, mask=mask).to(tl.float32)
    shift = tl.load(bias + channel, mask=mask).to(tl.float32)
    y = (tl.load(x + at, mask=mask).to(tl.float32) - mean) / tl.sqrt(spread + eps) * gain + shift
    tl.store(out + at, (y * tl.sigmoid(y)).to(out.dtype.element_ty), mask=mask)


def group_norm_silu(out, input, num_groups, weight, bias, eps, channels_last):
    images, channels = input.shape[0], weight.shape[0]
    if images:
        # Chunks of 4096 elements feed every processor, however few groups there are; their moments are joined by Chan's rule.
        pixels, width = input.shape[1 if channels_last else 2], channels // num_groups
        chunks = triton.cdiv(width * pixels, 4096)
        grid = (images * num_groups, chunks)
        partial = torch.empty((*grid, 2), dtype=torch.float32, device=input.device)
        _moments[grid](partial, input, num_groups, width, pixels, LAST=channels_last, BLOCK=4096, num_warps=8)
        _normalise[grid](
            out, input, partial, weight, bias, num_groups, width, pixels, eps,
            LAST=channels_last, BLOCK=4096, CHUNKS=triton.next_power_of_2(chunks), num_warps=8,
        )
