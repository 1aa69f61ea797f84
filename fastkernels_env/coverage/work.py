"""Arithmetic of operators, from their shapes."""

from __future__ import annotations

import math
from typing import Any

import torch


def flops_of(name: str, args: Any, kwargs: Any, result: Any) -> int:
    """Floating-point operations of matrix products, convolutions and transforms; 0 for all else, which memory bounds."""
    match name:
        case "mm" | "bmm":
            return 2 * _size(result) * int(args[0].shape[-1])
        case "addmm" | "baddbmm":
            return 2 * _size(result) * int(args[1].shape[-1])
        case "mv" | "dot":
            return 2 * _size(args[0])
        case "_grouped_mm":
            return 2 * _size(result) * int(args[0].shape[-1])
        case "convolution" | "_convolution":
            weight, transposed = args[1], args[6]
            outputs = args[0] if transposed else result
            return 2 * _size(outputs) * int(math.prod(weight.shape[1:]))
        case _ if name.startswith("_fft"):
            return int(5 * _size(args[0]) * math.log2(max(2, args[0].shape[-1])))
    return 0


def attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, window: int) -> int:
    """Both products of an attention. Shapes: [batch, heads, length, width].

    Args:
        query: Queries; where causal, they are the last ones.
        key: Keys, of fewer heads where they are grouped.
        value: Values.
        causal: No query looks behind itself.
        window: How many keys a query sees at most; 0 for all.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[-2]
    pairs = queries * keys
    if causal and queries > 1:
        pairs = queries * keys - queries * (queries - 1) // 2
    if window and window < keys:
        pairs = min(pairs, queries * window)
    return int(2 * batch * heads * pairs * (width + value.shape[-1]))


def _size(tensor: torch.Tensor) -> int:
    return int(math.prod(tensor.shape))
