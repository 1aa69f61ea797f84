import triton
import triton.language as tl


@triton.jit
def _modulate(
    out, residual, branch, gate, scale, shift, rows, tokens, width, gate_row, scale_row, shift_row, eps,
    GATED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    h = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (h < width)
    sample = row // tokens  # rows of a program may belong to two samples
    y = tl.load(residual + row * width + h, mask=mask, other=0.0).to(tl.float32)
    if GATED:
        weight = tl.load(gate + sample * gate_row + h, mask=mask, other=0.0).to(tl.float32)
        y += weight * tl.load(branch + row * width + h, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual + row * width + h, y.to(residual.dtype.element_ty), mask=mask)
    centred = tl.where(h < width, y - tl.sum(y, 1)[:, None] / width, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / width + eps)
    gain = 1.0 + tl.load(scale + sample * scale_row + h, mask=mask, other=0.0).to(tl.float32)
    offset = tl.load(shift + sample * shift_row + h, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * width + h, (centred * inverse * gain + offset).to(out.dtype.element_ty), mask=mask)


def adaln_modulate(out, residual, branch, gate, scale, shift, eps, gated):
    samples, tokens, width = out.shape
    rows = samples * tokens
    if rows:
        # About 4096 elements for a program: rows of 1024 channels share one, one of 3072 fills eight warps alone.
        block = triton.next_power_of_2(width)
        height = max(1, 4096 // block)
        _modulate[(triton.cdiv(rows, height),)](
            out, residual, branch, gate, scale, shift, rows, tokens, width, gate.stride(0), scale.stride(0), shift.stride(0), eps,
            GATED=gated, ROWS=height, BLOCK=block, num_warps=8,
        )
