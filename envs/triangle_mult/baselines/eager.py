"""The update in PyTorch as OpenFold3 has it: channels first for the products, which are batched matrix products."""

import torch
from torch.nn.functional import layer_norm, linear


def triangle_multiplicative_update(
    out, x, outgoing, mask, norm_in_weight, norm_in_bias, p_in_weight, g_in_weight, norm_out_weight, norm_out_bias, p_out_weight,
    g_out_weight, eps,
):
    z = layer_norm(x, norm_in_weight.shape, norm_in_weight, norm_in_bias, eps)
    ab = linear(z, g_in_weight).sigmoid() * linear(z, p_in_weight) * mask.unsqueeze(-1)
    a, b = ab.permute(0, 3, 1, 2).contiguous().chunk(2, dim=1)
    mixed = torch.matmul(a, b.transpose(2, 3)) if outgoing else torch.matmul(a.transpose(2, 3), b)
    normed = layer_norm(mixed.permute(0, 2, 3, 1).contiguous(), norm_out_weight.shape, norm_out_weight, norm_out_bias, eps)
    torch.mul(linear(z, g_out_weight).sigmoid(), linear(normed, p_out_weight), out=out)
