"""The norm and the gate in PyTorch, as fla's reference has them."""

import torch


def gated_rms_norm(out, x, gate, weight, eps, sigmoid):
    normed = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
    out.copy_(normed * (gate.float().sigmoid() if sigmoid else torch.nn.functional.silu(gate.float())))
