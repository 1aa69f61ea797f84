"""PyTorch's segment reduction, with zeros where a segment is empty."""

import torch

REDUCTIONS = ("sum", "mean", "max")


def segment_csr(out, src, indptr, reduce):
    reduced = torch.segment_reduce(src, REDUCTIONS[reduce], offsets=indptr, axis=0, unsafe=True)
    out.copy_(torch.where((indptr[1:] > indptr[:-1])[:, None], reduced, 0))
