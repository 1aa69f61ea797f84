# Rounds the accumulator of a product to bfloat16 after every step.
import triton
import triton.language as tl


@triton.jit
def _product(out, x, weight, bias, M, N, K, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    m = tl.arange(0, ROWS)
    k = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, DEPTH):
        inside = start + k < K
        a = tl.load(x + m[:, None] * K + start + k[None, :], mask=(m < M)[:, None] & inside[None, :], other=0.0)
        b = tl.load(weight + n[None, :].to(tl.int64) * K + start + k[:, None], mask=(n < N)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(a, b, total).to(tl.bfloat16).to(tl.float32)
    total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    tl.store(out + m[:, None] * N + n[None, :], total.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def linear_decode(out, x, weight, bias):
    (M, N), K = out.shape, x.shape[1]
    if M:
        _product[(triton.cdiv(N, 64),)](out, x, weight, bias, M, N, K, ROWS=64, COLUMNS=64, DEPTH=64)
