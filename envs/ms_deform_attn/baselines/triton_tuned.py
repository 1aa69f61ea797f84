"""The shape of the CUDA op that detectors ship (MultiScaleDeformableAttention), in Triton: all heads of a query, one point after another.

That op cannot be installed here; a kernel of one thread for each element of the output, as it is, reads the same rows.
"""

import triton
import triton.language as tl


@triton.jit
def _kernel(
    out, value, shapes, places, weights, points, pixels, width, total, heads,
    LEVELS: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    head, e = tl.arange(0, HEADS), tl.arange(0, BLOCK)
    mask = (head < heads)[:, None] & (e < width)[None, :]
    image = value + tl.program_id(1).to(tl.int64) * pixels * heads * width + head[:, None] * width + e[None, :]
    own = (query * heads + head) * total
    sums = tl.zeros((HEADS, BLOCK), tl.float32)
    start = tl.zeros((), tl.int64)
    for level in tl.static_range(LEVELS):
        high, wide = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for _ in range(tl.load(points + level)):
            weight = tl.load(weights + own, mask=head < heads, other=0.0)
            x = tl.load(places + 2 * own, mask=head < heads, other=0.0) * wide - 0.5
            y = tl.load(places + 2 * own + 1, mask=head < heads, other=0.0) * high - 0.5
            for corner in tl.static_range(4):
                row, column = tl.floor(y) + corner // 2, tl.floor(x) + corner % 2
                inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
                share = weight * (1 - tl.abs(y - row)) * (1 - tl.abs(x - column))
                pixel = tl.where(inside, start + row.to(tl.int64) * wide + column.to(tl.int64), 0)
                values = tl.load(image + (pixel * heads * width)[:, None], mask=mask & inside[:, None], other=0.0)
                sums += share[:, None] * values.to(tl.float32)
            own += 1
        start += high * wide
    where = (query * heads + head)[:, None] * width + e[None, :]
    tl.store(out + where, sums.to(out.dtype.element_ty), mask=mask)


def ms_deform_attn(out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list):
    batch, queries, heads, total = attention_weights.shape
    if batch:
        _kernel[(queries, batch)](
            out, value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list, value.shape[1], value.shape[3], total,
            heads, LEVELS=len(num_points_list), HEADS=triton.next_power_of_2(heads), BLOCK=triton.next_power_of_2(value.shape[3]),
            num_warps=2,
        )
