"""A batched product and a gather of its upper triangle, as torchrec does it."""

import torch


def dlrm_interaction(out, dense, sparse):
    vectors = torch.cat((dense.unsqueeze(1), sparse), dim=1)
    first, second = torch.triu_indices(vectors.shape[1], vectors.shape[1], offset=1, device=dense.device)
    torch.cat((dense, torch.bmm(vectors, vectors.transpose(1, 2))[:, first, second]), dim=1, out=out)
