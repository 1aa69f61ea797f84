import triton
import triton.language as tl


@triton.jit
def _interaction(out, dense, sparse, count, width, columns, VECTORS: tl.constexpr, BLOCK: tl.constexpr):
    sample = tl.program_id(0).to(tl.int64)
    i, j, e = tl.arange(0, VECTORS)[:, None], tl.arange(0, VECTORS)[None, :], tl.arange(0, BLOCK)[None, :]
    own = tl.load(dense + sample * width + e, mask=e < width, other=0.0)
    place = (sample * count + i - 1) * width + e
    vectors = tl.load(sparse + place, mask=(i > 0) & (i <= count) & (e < width), other=0.0) + tl.where(i == 0, own, 0.0)
    products = tl.dot(vectors, tl.trans(vectors), input_precision="ieee")
    pair = i * (2 * count + 1 - i) // 2 + j - i - 1
    row = out + sample * columns
    tl.store(row + e, own, mask=e < width)
    tl.store(row + width + pair, products, mask=(i < j) & (j <= count))


def dlrm_interaction(out, dense, sparse):
    batch, count, width = sparse.shape
    if batch:
        vectors, block = max(16, triton.next_power_of_2(count + 1)), max(16, triton.next_power_of_2(width))
        _interaction[(batch,)](out, dense, sparse, count, width, out.shape[1], VECTORS=vectors, BLOCK=block, num_warps=4)
