import torch
import triton
import triton.language as tl


@triton.jit
def _maxsim(
    out, query_vecs, doc_vecs, doc_mask, queries, tokens, documents, length, width,
    TOKENS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):
    # Queries of one document are neighbours: all but the first find it in the cache.
    query, document = tl.program_id(0) % queries, (tl.program_id(0) // queries).to(tl.int64)
    t, e = tl.arange(0, TOKENS), tl.arange(0, BLOCK)
    asked = (query * tokens + t)[:, None] * width + e[None, :]
    q = tl.load(query_vecs + asked, mask=(t < tokens)[:, None] & (e < width)[None, :], other=0.0)
    best = tl.full((TOKENS,), float("-inf"), tl.float32)
    for first in range(0, length, TILE):
        u = first + tl.arange(0, TILE)
        known = tl.load(doc_mask + document * length + u, mask=u < length, other=0) != 0
        place = (document * length + u)[None, :] * width + e[:, None]
        vectors = tl.load(doc_vecs + place, mask=known[None, :] & (e < width)[:, None], other=0.0)
        scores = tl.dot(q, vectors, input_precision="ieee")
        best = tl.maximum(best, tl.max(tl.where(known[None, :], scores, float("-inf")), 1))
    total = tl.sum(tl.where(t < tokens, best, 0.0), 0)
    tl.store(out + query * documents + document, total.to(out.dtype.element_ty))


def maxsim(out, query_vecs, doc_vecs, doc_mask):
    queries, tokens, width = query_vecs.shape
    documents, length, _ = doc_vecs.shape
    if documents:
        _maxsim[(documents * queries,)](
            out, query_vecs, doc_vecs, doc_mask.view(torch.uint8), queries, tokens, documents, length, width,
            TOKENS=max(16, triton.next_power_of_2(tokens)), TILE=64, BLOCK=max(16, triton.next_power_of_2(width)),
            num_warps=4, num_stages=3,
        )
