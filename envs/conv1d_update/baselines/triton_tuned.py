"""A Triton kernel of our own, in place in the pool as vLLM's: that one cannot be installed without all of vLLM."""

import triton
import triton.language as tl


@triton.jit
def _update(x, stride, states, weight, bias, indices, width, SILU: tl.constexpr, TAPS: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(indices + row).to(tl.int64)
    if slot >= 0:
        d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tap = tl.arange(0, TAPS)
        inside = (d < width)[:, None]
        place = states + slot * width * (W - 1) + d[:, None] * (W - 1) + tap[None, :]
        new = tl.load(x + row * stride + d, mask=d < width)
        window = tl.load(place, mask=inside & (tap < W - 1)[None, :], other=0.0)
        window = tl.where((tap == W - 1)[None, :], new[:, None], window)
        gain = tl.load(weight + d[:, None] * W + tap[None, :], mask=inside & (tap < W)[None, :], other=0.0)
        result = tl.sum(window.to(tl.float32) * gain.to(tl.float32), 1) + tl.load(bias + d, mask=d < width).to(tl.float32)
        if SILU:
            result = result * tl.sigmoid(result)
        tl.debug_barrier()
        tl.store(place - 1, window, mask=inside & ((tap > 0) & (tap < W))[None, :])
        tl.store(x + row * stride + d, result.to(x.dtype.element_ty), mask=d < width)


def causal_conv1d_update(x, conv_state, weight, bias, activation, conv_state_indices):
    batch, width = x.shape
    taps = weight.shape[1]
    if batch:
        block = 256 if batch * width < 2**19 else 512
        _update[(triton.cdiv(width, block), batch)](
            x, x.stride(0), conv_state, weight, bias, conv_state_indices, width, SILU=activation, TAPS=triton.next_power_of_2(taps), W=taps,
            BLOCK=block, num_warps=4,
        )
