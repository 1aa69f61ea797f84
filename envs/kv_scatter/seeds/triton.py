import triton
import triton.language as tl


@triton.jit
def _scatter(
    key, value, key_cache, value_cache, slots, key_stride, value_stride, heads, width, page, HND: tl.constexpr, BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    element = tl.arange(0, BLOCK)
    there = (element < heads * width) & (slot >= 0)
    keys = tl.load(key + token * key_stride + element, mask=there)
    values = tl.load(value + token * value_stride + element, mask=there)
    if HND:
        head, within = element // width, element % width
        target = ((slot // page * heads + head) * page + slot % page) * width + within
    else:
        target = slot * heads * width + element
    tl.store(key_cache + target, keys, mask=there)
    tl.store(value_cache + target, values, mask=there)


def reshape_and_cache_flash(key, value, key_cache, value_cache, slot_mapping, hnd):
    tokens, heads, width = key.shape
    if tokens:
        block = triton.next_power_of_2(heads * width)
        # Eight elements a thread: one 16-byte access to each of the tensors.
        _scatter[(tokens,)](
            key, value, key_cache, value_cache, slot_mapping, key.stride(0), value.stride(0), heads, width,
            key_cache.shape[2 if hnd else 1], HND=bool(hnd), BLOCK=block, num_warps=min(8, max(1, block // 256)),
        )
