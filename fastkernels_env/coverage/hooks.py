"""Attention, routed experts and values that code asks for, noted or answered where models ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from . import values
from .routing import ROUTERS, hit_by, uniform
from .tracing import Tracer
from .work import attention_flops

IMPLEMENTATION = "fastkernels_trace"
"""Name under which transformers finds the attention and the experts that are noted as one call each."""


@contextmanager
def observed(tracer: Tracer) -> Iterator[None]:
    """Within it, attention and routed experts are noted as one call each."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register(IMPLEMENTATION, _attention(tracer))
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
    ExpertsInterface.register(IMPLEMENTATION, _experts(tracer))
    with _Functions(tracer):
        yield


def _attention(tracer: Tracer) -> Any:
    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        window = kwargs.get("sliding_window") or 0
        sinks = kwargs.get("s_aux") is not None
        bias = kwargs.get("position_bias")
        bias = attention_mask if bias is None else bias  # there are no other masks: see `_no_mask`
        result = _attend(tracer, query, key, value, bool(causal), int(window), bias, sinks, _latent(module))
        return result.transpose(1, 2).contiguous(), None

    return attend


def _attend(
    tracer: Tracer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, window: int, bias: Any, sinks: bool,
    latent: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    recording, tracer.recording = tracer.recording, False
    if query.dim() == 4 and query.shape[0] == 1:  # queries that a batch shares
        query = query.expand(key.shape[0], -1, -1, -1)
    if query.dim() == 4 and key.shape[0] not in (1, query.shape[0]):
        raise ValueError(f"attention of {query.shape[0]} sequences to {key.shape[0]} others")
    result = query.new_empty((*query.shape[:-1], value.shape[-1]))
    tracer.recording = recording
    facts = {
        "queries": int(query.shape[-2]), "keys": int(key.shape[-2]), "causal": int(causal), "window": window, "sinks": int(sinks),
        "bias": int(isinstance(bias, torch.Tensor) and bias.is_floating_point()),
    }
    four = [x if x.dim() == 4 else x.reshape(1, -1, *x.shape[-2:]) for x in (query, key, value)]
    tensors = [query, key, value, *([bias] if facts["bias"] else [])]
    flops = attention_flops(four[0], four[1], four[2], causal, window)
    if latent[0]:
        facts["latent"] = sum(latent)
        if facts["queries"] == 1:  # production attends to the latents that it caches, and never expands them
            batch, heads, keys = query.shape[0], query.shape[1], key.shape[-2]
            tensors = [query, key.new_empty((batch, keys, sum(latent)))]
            flops = 2 * batch * heads * keys * (2 * latent[0] + latent[1])
    tracer.note("attention", tensors, result, flops, facts)
    return result


def _latent(module: Any) -> tuple[int, int]:
    """Widths of a multi-head latent attention's cache: latent and rotated part; zeros for any other attention."""
    rank, rotated = getattr(module, "kv_lora_rank", None), getattr(module, "qk_rope_head_dim", None)
    return (rank, rotated) if isinstance(rank, int) and isinstance(rotated, int) else (0, 0)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _experts(tracer: Tracer) -> Any:
    def run(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        routed = top_k_index.numel()
        weights = [p for p in module.parameters(recurse=False)]
        experts = int(weights[0].shape[0])
        hit = hit_by(routed, experts)
        recording, tracer.recording = tracer.recording, False
        result = torch.empty_like(hidden_states)
        touched = [p.narrow(0, 0, max(1, round(hit))) for p in weights]
        tracer.recording = recording
        flops = sum(2 * routed * int(p[0].numel()) for p in weights if p.dim() == 3)
        facts = {"rows": int(hidden_states.shape[0]), "hit": round(hit)}
        tracer.note("experts", [hidden_states, top_k_index, top_k_weights, *touched], result, flops, facts)
        return result

    return run


class _Functions(torch.overrides.TorchFunctionMode):
    """Notes an attention that a model asks torch for itself."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or note it."""
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _sdpa(self._tracer, *args, **(kwargs or {}))
        if func in _READS:
            return self._read(func, args)
        if func is torch.Tensor.topk and type(self._tracer.module).__name__ in ROUTERS:
            best = func(*args, **(kwargs or {}))
            uniform(best.indices, args[0].shape[-1])
            return best
        if func in (torch.tensor, torch.as_tensor):
            args = tree_map(_number, args)
            if not any(isinstance(x, torch.Tensor) for x in tree_leaves(args)):
                kwargs = dict(kwargs or {})
                device = kwargs.pop("device", None)
                made = func(*args, **kwargs, device="cpu")
                return values.known(made) if device is not None and torch.device(device).type == "meta" else made
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            args = (args[0], tuple(torch.tensor(x, device="cpu") if isinstance(x, list) else x for x in args[1]))
        return func(*args, **(kwargs or {}))

    def _read(self, func: Any, args: Any) -> Any:
        """Give a model the values that it asks for."""
        value = values.value_of(args[0])
        if value is not None:
            return func(value, *args[1:])
        if args[0].dtype == torch.bool and args[0].numel() == 1 and func is not torch.Tensor.numpy:
            return False
        raise values.Unknown(f"it asks for values that depend on its weights or inputs ({func.__name__})")


def _number(x: Any) -> Any:
    """A number that a model makes a tensor of, if it is one and known."""
    value = values.value_of(x) if isinstance(x, torch.Tensor) and x.numel() == 1 else None
    return x if value is None else value.item()


_READS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__int__)


def _sdpa(
    tracer: Tracer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:
    return _attend(tracer, query, key, value, is_causal, 0, attn_mask, sinks=False)
