"""One sequence after another: gather the pages of its window, matrix products around a softmax with one more column.

`plan` reads lengths and page lists once, so that the calls need no host synchronisation and can be captured in a CUDA graph. There
is no compiled variant: every draw of lengths has its own shapes and would compile anew.
"""

import itertools


def plan(out, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale):
    return _sequences(k_cache.shape[1], kv_indptr, kv_indices, last_page_len, window_left)


def sink_attention(out, q, k_cache, v_cache, sinks, kv_indptr, kv_indices, last_page_len, window_left, sm_scale, plan=None):
    page, kv_heads = k_cache.shape[1:3]
    sequences = _sequences(page, kv_indptr, kv_indices, last_page_len, window_left) if plan is None else plan
    for b, (pages, first, end) in enumerate(sequences):
        keys, values = (_gather(cache, pages, first, end) for cache in (k_cache, v_cache))
        scores = (q[b].float() * sm_scale).unflatten(0, (kv_heads, -1)) @ keys.transpose(1, 2)
        total = scores.logsumexp(-1, keepdim=True).logaddexp(sinks.view(kv_heads, -1, 1))
        out[b] = ((scores - total).exp() @ values).flatten(0, 1)


def _sequences(page, kv_indptr, kv_indices, last_page_len, window_left):
    """Of every sequence, the pages that its window touches, and the window's bounds in them."""
    found = []
    for (start, stop), last in zip(itertools.pairwise(kv_indptr.tolist()), last_page_len.tolist(), strict=True):
        length = (stop - start - 1) * page + last
        first = max(length - 1 - window_left, 0) if window_left >= 0 else 0
        skipped = first // page
        found.append((kv_indices[start + skipped : stop], first - skipped * page, length - skipped * page))
    return found


def _gather(cache, pages, first, end):
    """The window's rows of a cache, [kv heads, tokens, d] in float32."""
    return cache.index_select(0, pages).flatten(0, 1)[first:end].float().transpose(0, 1)
