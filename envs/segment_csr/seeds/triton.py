import triton
import triton.language as tl


@triton.jit
def _segment_csr(out, src, indptr, width, REDUCE: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first, last = tl.load(indptr + segment), tl.load(indptr + segment + 1)
    empty: tl.constexpr = float("-inf") if REDUCE == 2 else 0.0
    reduced = tl.full((LANES, BLOCK), empty, tl.float32)
    for start in range(first, last, LANES):  # several rows in flight
        row = start + tl.arange(0, LANES)
        mask = (row < last)[:, None] & (column < width)[None, :]
        values = tl.load(src + row[:, None] * width + column[None, :], mask=mask, other=empty).to(tl.float32)
        reduced = tl.maximum(reduced, values) if REDUCE == 2 else reduced + values
    result = tl.where(last > first, tl.max(reduced, 0), 0.0) if REDUCE == 2 else tl.sum(reduced, 0)
    if REDUCE == 1:
        result /= tl.maximum(last - first, 1).to(tl.float32)
    tl.store(out + segment * width + column, result.to(out.dtype.element_ty), mask=column < width)


def segment_csr(out, src, indptr, reduce):
    segments, width = out.shape
    if segments:
        # Where segments are long (whole scans) there are few programs: each has a narrow strip, and more rows in flight.
        long = src.shape[0] > 64 * segments
        lanes, block, warps = (256, 16, 8) if long else (4, 128, 1)
        block = min(block, triton.next_power_of_2(width))
        grid = (segments, triton.cdiv(width, block))
        _segment_csr[grid](out, src, indptr, width, REDUCE=reduce, LANES=lanes, BLOCK=block, num_warps=warps)
