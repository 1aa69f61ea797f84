import triton
import triton.language as tl


@triton.jit
def _conv1d_update(
    x, stride, states, weight, bias, indices, width, SILU: tl.constexpr, TAPS: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr
):
    # One program for a block of channels of one sequence: it owns that part of the sequence's state.
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(indices + row).to(tl.int64)
    if slot >= 0:
        d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tap = tl.arange(0, TAPS)
        inside = (d < width)[:, None]
        new = tl.load(x + row * stride + d, mask=d < width)
        place = states + (slot * width + d)[:, None] * (W - 1) + tap[None, :]
        window = tl.load(place, mask=inside & (tap < W - 1)[None, :], other=0.0)
        window = tl.where((tap == W - 1)[None, :], new[:, None], window)
        gain = tl.load(weight + d[:, None] * W + tap[None, :], mask=inside & (tap < W)[None, :], other=0.0)
        result = tl.load(bias + d, mask=d < width).to(tl.float32)
        result += tl.sum(window.to(tl.float32) * gain.to(tl.float32), 1)
        if SILU:
            result *= tl.sigmoid(result)
        # A token's new place was its neighbour's: all threads have read before one writes.
        tl.debug_barrier()
        tl.store(place - 1, window, mask=inside & ((tap > 0) & (tap < W))[None, :])
        tl.store(x + row * stride + d, result.to(x.dtype.element_ty), mask=d < width)


def causal_conv1d_update(x, conv_state, weight, bias, activation, conv_state_indices):
    batch, width = x.shape
    taps = weight.shape[1]
    if batch:
        grid = (triton.cdiv(width, 256), batch)
        _conv1d_update[grid](
            x, x.stride(0), conv_state, weight, bias, conv_state_indices, width, SILU=activation, TAPS=triton.next_power_of_2(taps),
            W=taps, BLOCK=256, num_warps=4,
        )
