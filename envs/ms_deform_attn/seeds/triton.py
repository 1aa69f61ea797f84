import triton
import triton.language as tl


@triton.jit
def _deform(
    out, value, shapes, places, weights, points, rows, queries, heads, width, pixels, total,
    LEVELS: tl.constexpr, ROWS: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr,
):
    # A row is one head of one query. All of its points are read at once: latency, not bandwidth, is what this costs.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    p, e = tl.arange(0, POINTS), tl.arange(0, BLOCK)
    there = (row < rows)[:, None] & (p < total)[None, :]
    own = row.to(tl.int64)[:, None] * total + p[None, :]
    weight = tl.load(weights + own, mask=there, other=0.0)
    u = tl.load(places + 2 * own, mask=there, other=0.0)
    v = tl.load(places + 2 * own + 1, mask=there, other=0.0)

    # Which level each point is in: its size, and where its pixels begin.
    high, wide, begin = tl.full((POINTS,), 1, tl.int32), tl.full((POINTS,), 1, tl.int32), tl.zeros((POINTS,), tl.int32)
    first, start = 0, 0
    for level in tl.static_range(LEVELS):
        own_high, own_wide = tl.load(shapes + 2 * level).to(tl.int32), tl.load(shapes + 2 * level + 1).to(tl.int32)
        last = first + tl.load(points + level).to(tl.int32)
        mine = (p >= first) & (p < last)
        high, wide, begin = tl.where(mine, own_high, high), tl.where(mine, own_wide, wide), tl.where(mine, start, begin)
        first, start = last, start + own_high * own_wide

    x, y = u * wide[None, :] - 0.5, v * high[None, :] - 0.5
    left, top = tl.floor(x), tl.floor(y)
    image, head = (row // (queries * heads)).to(tl.int64), row % heads
    base = (image * pixels * heads + head) * width
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for corner in tl.static_range(4):
        r, c = top + corner // 2, left + corner % 2
        inside = there & (r >= 0) & (r < high[None, :]) & (c >= 0) & (c < wide[None, :])
        share = tl.where(inside, weight * (1.0 - tl.abs(y - r)) * (1.0 - tl.abs(x - c)), 0.0)
        pixel = begin[None, :] + tl.where(inside, r, 0.0).to(tl.int32) * wide[None, :] + tl.where(inside, c, 0.0).to(tl.int32)
        place = base[:, None] + pixel.to(tl.int64) * (heads * width)
        values = tl.load(value + place[:, :, None] + e[None, None, :], mask=inside[:, :, None] & (e < width)[None, None, :], other=0.0)
        sums += tl.sum(values.to(tl.float32) * share[:, :, None], 1)
    target = out + row.to(tl.int64)[:, None] * width + e[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (e < width)[None, :])


def ms_deform_attn(out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list):
    batch, queries, heads, total = attention_weights.shape
    pixels, width = value.shape[1], value.shape[3]
    rows = batch * queries * heads
    if rows:
        # Sixteen heads a program: 16 points of 32 elements for each give 256 threads 32 values a corner.
        _deform[(triton.cdiv(rows, 16),)](
            out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list, rows, queries, heads, width, pixels,
            total, LEVELS=num_points_list.shape[0], ROWS=16, POINTS=triton.next_power_of_2(total), BLOCK=triton.next_power_of_2(width),
            num_warps=8,
        )
