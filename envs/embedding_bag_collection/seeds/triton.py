import triton
import triton.language as tl


@triton.jit
def _bags(out, ids, offsets, weights, tables, batch, count, rows, width, BAGS: tl.constexpr, BLOCK: tl.constexpr):
    # Bags side by side keep as many rows in flight, however short they are.
    bag = tl.program_id(0) * BAGS + tl.arange(0, BAGS)
    known = bag < batch * count
    table, sample = (bag // batch).to(tl.int64), (bag % batch).to(tl.int64)
    first, last = tl.load(offsets + bag, mask=known, other=0), tl.load(offsets + bag + 1, mask=known, other=0)
    column = tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros((BAGS, BLOCK), tl.float32)
    for step in range(0, tl.max(last - first, 0)):
        there = first + step < last
        row = table * rows + tl.load(ids + first + step, mask=there)
        weight = tl.load(weights + first + step, mask=there, other=0.0).to(tl.float32)
        values = tl.load(tables + row[:, None] * width + column, mask=there[:, None] & (column < width), other=0.0)
        sums += weight[:, None] * values.to(tl.float32)
    place = (sample * count + table)[:, None] * width + column
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=known[:, None] & (column < width))


def embedding_bag_collection(out, sparse_indices, offsets, weights, tables):
    batch, count, width = out.shape
    if batch:
        grid = (triton.cdiv(batch * count, 16),)
        block = triton.next_power_of_2(width)
        _bags[grid](out, sparse_indices, offsets, weights, tables, batch, count, tables.shape[1], width, BAGS=16, BLOCK=block)
