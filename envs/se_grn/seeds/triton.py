import torch
import triton
import triton.language as tl


@triton.jit
def _pool(partial, x, pixels, channels, chunks, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    image, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    s = chunk * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = (image * pixels + s)[:, None] * channels + c[None, :]
    values = tl.load(x + place, mask=(s < pixels)[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
    tl.store(partial + tl.program_id(0).to(tl.int64) * channels + c, tl.sum(values, 0), mask=c < channels)


@triton.jit
def _squeeze(
    squeezed, partial, weight, bias, pixels, channels, hidden, chunks, CHUNKS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    image = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    chunk = tl.arange(0, CHUNKS)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, channels, BLOCK):
        c = start + tl.arange(0, BLOCK)
        place = (image * chunks + chunk)[:, None] * channels + c[None, :]
        means = tl.sum(tl.load(partial + place, mask=(chunk < chunks)[:, None] & (c < channels)[None, :], other=0.0), 0) / pixels
        w = tl.load(weight + r[:, None] * channels + c[None, :], mask=(r < hidden)[:, None] & (c < channels)[None, :], other=0.0)
        sums += w.to(tl.float32) * means[None, :]
    z = tl.sum(sums, 1) + tl.load(bias + r, mask=r < hidden, other=0.0).to(tl.float32)
    tl.store(squeezed + image * hidden + r, z * tl.sigmoid(z), mask=r < hidden)


@triton.jit
def _excite(
    out, x, squeezed, weight, bias, pixels, channels, hidden, chunks, HIDDEN: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr
):
    image, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    s = chunk * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, HIDDEN)
    h = tl.load(squeezed + image * hidden + r, mask=r < hidden, other=0.0)
    w = tl.load(weight + c[:, None] * hidden + r[None, :], mask=(c < channels)[:, None] & (r < hidden)[None, :], other=0.0)
    g = tl.sum(w.to(tl.float32) * h[None, :], 1) + tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    place = (image * pixels + s)[:, None] * channels + c[None, :]
    mask = (s < pixels)[:, None] & (c < channels)[None, :]
    values = tl.load(x + place, mask=mask).to(tl.float32) * tl.sigmoid(g)[None, :]
    tl.store(out + place, values.to(out.dtype.element_ty), mask=mask)


def squeeze_excite(out, input, reduce_weight, reduce_bias, expand_weight, expand_bias):
    images, pixels, channels = input.shape
    hidden = reduce_weight.shape[0]
    if not images:
        return
    # 64 pixels by 64 channels a program: few enough chunks that the second kernel joins them in one load.
    chunks = triton.cdiv(pixels, 64)
    grid = (images * chunks, triton.cdiv(channels, 64))
    partial = torch.empty((images, chunks, channels), dtype=torch.float32, device=input.device)
    squeezed = torch.empty((images, hidden), dtype=torch.float32, device=input.device)
    _pool[grid](partial, input, pixels, channels, chunks, PIXELS=64, BLOCK=64, num_warps=4)
    _squeeze[(images, triton.cdiv(hidden, 16))](
        squeezed, partial, reduce_weight, reduce_bias, pixels, channels, hidden, chunks,
        CHUNKS=triton.next_power_of_2(chunks), ROWS=16, BLOCK=128, num_warps=4,
    )
    _excite[grid](
        out, input, squeezed, expand_weight, expand_bias, pixels, channels, hidden, chunks,
        HIDDEN=triton.next_power_of_2(hidden), PIXELS=64, BLOCK=64, num_warps=4,
    )
