import triton
import triton.language as tl


@triton.jit
def _ssm_update(
    out, state, x, dt, A, B, C, D, z, dt_bias, indices, x_stride, b_stride, c_stride, heads, groups, width, size,
    SOFTPLUS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):
    # One program for some rows of one head's state: read once, changed in registers, written once.
    token = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1)
    group = head // (heads // groups)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    slot = tl.load(indices + token).to(tl.int64)
    inside = (p < width)[:, None] & (n < size)[None, :]
    place = state + ((slot * heads + head) * width + p)[:, None] * size + n[None, :]
    old = tl.load(place, mask=inside & (slot >= 0), other=0.0)

    step = tl.load(dt + token * heads + head).to(tl.float32) + tl.load(dt_bias + head).to(tl.float32)
    if SOFTPLUS:
        step = tl.where(step > 20.0, step, tl.log(1.0 + tl.exp(step)))
    row = (token * heads + head) * width + p
    value = tl.load(x + token * x_stride + head * width + p, mask=p < width, other=0.0).to(tl.float32)
    into = tl.load(B + token * b_stride + group * size + n, mask=n < size, other=0.0).to(tl.float32)
    outof = tl.load(C + token * c_stride + group * size + n, mask=n < size, other=0.0).to(tl.float32)
    new = old * tl.exp(tl.load(A + head) * step) + (step * value)[:, None] * into[None, :]
    result = tl.sum(new * outof[None, :], 1) + tl.load(D + head).to(tl.float32) * value
    gate = tl.load(z + row, mask=p < width, other=0.0).to(tl.float32)
    tl.store(out + row, (result * gate * tl.sigmoid(gate)).to(out.dtype.element_ty), mask=p < width)
    tl.store(place, new, mask=inside & (slot >= 0))


def selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, out):
    tokens, heads, width = x.shape
    groups, size = B.shape[1:]
    if tokens:
        block_n = triton.next_power_of_2(size)
        block_p = 4096 // block_n  # 32 elements for each of 128 threads
        grid = (triton.cdiv(width, block_p), heads, tokens)
        _ssm_update[grid](
            out, state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, x.stride(0), B.stride(0), C.stride(0), heads, groups, width,
            size, SOFTPLUS=dt_softplus, BLOCK_P=block_p, BLOCK_N=block_n, num_warps=4,
        )
