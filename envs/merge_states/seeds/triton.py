import triton
import triton.language as tl


@triton.jit
def _merge(out, prefix, prefix_lse, suffix, suffix_lse, lse, tokens, heads, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    there = row < tokens * heads
    place = row % heads * tokens + row // heads  # log-sum-exps lie head by head
    a = tl.load(prefix_lse + place, mask=there)
    b = tl.load(suffix_lse + place, mask=there)
    top = tl.maximum(a, b)
    left, right = tl.exp(a - top), tl.exp(b - top)
    tl.store(lse + place, top + tl.log(left + right), mask=there)
    element = row[:, None] * width + tl.arange(0, BLOCK)[None, :]
    mask = there[:, None] & (tl.arange(0, BLOCK) < width)[None, :]
    before = tl.load(prefix + element, mask=mask).to(tl.float32) * (left / (left + right))[:, None]
    after = tl.load(suffix + element, mask=mask).to(tl.float32) * (right / (left + right))[:, None]
    tl.store(out + element, (before + after).to(out.dtype.element_ty), mask=mask)


def merge_attn_states(output, prefix_output, prefix_lse, suffix_output, suffix_lse, output_lse):
    tokens, heads, width = output.shape
    if tokens:
        block = triton.next_power_of_2(width)
        _merge[(triton.cdiv(tokens * heads, 16),)](
            output, prefix_output, prefix_lse, suffix_output, suffix_lse, output_lse, tokens, heads, width,
            ROWS=16, BLOCK=block, num_warps=4,  # 16 elements a thread where heads have 128
        )
