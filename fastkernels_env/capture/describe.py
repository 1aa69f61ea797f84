"""From a call of a torch module to an `Op`: reads shapes and settings off the module and its arguments, and decides nothing else."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn

from . import matching, values
from .ops import Op, TensorSpec

FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"), "gate-up": ("gate_proj", "up_proj"), "w13": ("w1", "w3"),
}
"""Linear layers of one module that production runs as one, on the same input."""
_PARTS = {
    "o_proj": "out", "out_proj": "out", "down_proj": "down", "w2": "down", "lm_head": "head", "gate": "router", "router": "router",
    "qkv_proj": "qkv", "gate_up_proj": "gate-up", "w13": "gate-up",
}
_NORMS = {"kv_a_layernorm": "kv-latent", "q_a_layernorm": "q-latent", "q_norm": "q-norm", "k_norm": "k-norm"}


def spec(tensor: torch.Tensor) -> TensorSpec:
    """Shape, dtype and strides."""
    return TensorSpec(tuple(map(int, tensor.shape)), str(tensor.dtype).removeprefix("torch."), tuple(map(int, tensor.stride())))


def parameter(module: nn.Module, name: str) -> torch.Tensor:
    """A tensor that a module has."""
    value = getattr(module, name)
    assert isinstance(value, torch.Tensor)
    return value


def part(name: str) -> str:
    """What a layer is, by its name in its parent."""
    return _PARTS.get(name, name)


def kind_of(module: nn.Module) -> str:
    """The op that a module stands for, by its class and parameters; empty if none."""
    kind = matching.op_of_module(type(module).__name__)
    weight = getattr(module, "weight", None)
    dimensions = weight.dim() if isinstance(weight, torch.Tensor) else 0
    match kind:
        case "rms_norm":
            shifted = _has_text(cast("Hashable", type(module)), ("1.0 +", "1 + self.weight"))
            return kind if dimensions == 1 and not shifted else "norm"
        case "attention":
            return kind if _has_heads(module) else ""
        case "linear":
            return kind if dimensions == 2 else ""
        case "experts":
            wide = [getattr(module, name, None) for name in ("gate_up_proj", "down_proj")]
            return kind if all(isinstance(p, torch.Tensor) and p.dim() == 3 for p in wide) else ""
        case "mlp":
            return kind if _is_gated(module) else ""
    return kind


def _is_gated(module: nn.Module) -> bool:
    """Whether a module is a gated MLP with SiLU and no biases, as `llama_mlp` is."""
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    plain = all(isinstance(getattr(layer, "weight", None), torch.Tensor) and getattr(layer, "bias", None) is None for layer in layers)
    return plain and "SiLU" in type(getattr(module, "act_fn", None)).__name__


@lru_cache(maxsize=256)
def _has_text(module: Any, texts: tuple[str, ...]) -> bool:
    """Whether a class's source says one of these. A norm whose weight is an offset from one is another op."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return False
    return any(text in source for text in texts)


def tensors_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tensors among the arguments, in order."""
    return [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]


def norm(module: nn.Module, inputs: Sequence[torch.Tensor], name: str, path: str, added: bool) -> Op:
    """`added`: the input is a sum (of the residual), or the module is given the residual too."""
    fused = added or len(inputs) > 1
    return Op(
        op="add_rms_norm" if fused else "rms_norm", module=type(module).__name__, path=path, tensors={"input": spec(inputs[0])},
        part=_NORMS.get(name, ""),
    )


def linear(modules: Sequence[nn.Module], x: torch.Tensor, name: str, path: str) -> Op:
    """Layers on one input, as one: their outputs side by side."""
    weights = [spec(parameter(module, "weight")) for module in modules]
    weight = TensorSpec((sum(each.shape[0] for each in weights), weights[0].shape[1]), weights[0].dtype)
    return Op(op="linear", module=type(modules[0]).__name__, path=path, tensors={"input": spec(x), "weight": weight}, part=name)


def mlp(module: nn.Module, x: torch.Tensor, path: str) -> Op:
    """A gated MLP as a whole."""
    down = getattr(module, "down_proj", None)
    assert isinstance(down, nn.Module)
    tensors = {"input": spec(x), "down": spec(parameter(down, "weight"))}
    return Op(op="mlp", module=type(module).__name__, path=path, tensors=tensors)


def router(module: nn.Module, x: torch.Tensor, path: str) -> Op | None:
    """The choice that a router makes of experts for tokens ``[..., H]``; None unless it is by a softmax over all of them."""
    top_k = getattr(module, "top_k", None)
    if not isinstance(top_k, int) or not _has_text(cast("Hashable", type(module)), ("softmax",)):
        return None
    logits = TensorSpec((*map(int, x.shape[:-1]), parameter(module, "weight").shape[0]), spec(x).dtype)
    numbers = {"top_k": float(top_k), "renormalize": float(getattr(module, "norm_topk_prob", True))}
    return Op(op="router", module=type(module).__name__, path=path, tensors={"input": logits}, numbers=numbers)


def experts(module: nn.Module, inputs: Sequence[torch.Tensor], path: str) -> Op:
    """Three tensors: tokens ``[T, H]``, ids and weights ``[T, k]`` (in either order)."""
    chosen = next((t for t in inputs[1:] if not t.is_floating_point()), inputs[1])
    activation = type(getattr(module, "act_fn", None)).__name__
    tensors = {"input": spec(inputs[0]), "w13": spec(parameter(module, "gate_up_proj")), "w2": spec(parameter(module, "down_proj"))}
    silu = "SiLU" in activation and tensors["w2"].shape[1] == inputs[0].shape[-1]
    numbers = {"top_k": float(chosen.shape[-1]), "silu": float(silu)}
    return Op(op="experts", module=type(module).__name__, path=path, tensors=tensors, numbers=numbers)


def _has_heads(module: nn.Module) -> bool:
    """Whether a module says how its heads are laid out, as those of `transformers` do. Of others the functions inside are seen."""
    groups = getattr(module, "num_key_value_groups", None)
    return _head_width(module) > 0 and isinstance(groups, int) and hasattr(getattr(module, "o_proj", None), "weight")


def _head_width(module: nn.Module) -> int:
    """Channels of a head of the values, which those of latent attention state apart; 0 if the module does not say."""
    widths = [getattr(module, name, None) for name in ("v_head_dim", "head_dim")]
    return next((width for width in widths if isinstance(width, int)), 0)


def rope(module: nn.Module, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, path: str) -> Op:
    """Query and key ``[batch, heads, length, d]``. Cosines are those of half a head, or of both halves."""
    config = getattr(module, "config", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    width, turned = query.shape[-1], cos.shape[-1]
    norms = [getattr(module, name) for name in ("q_norm", "query_norm", "q_layernorm") if hasattr(module, name)]
    by_head = any(isinstance(n, nn.Module) and kind_of(n) == "rms_norm" and parameter(n, "weight").shape[0] == width for n in norms)
    numbers = {
        "rotary": float(width if 2 * turned == width else turned), "theta": float(parameters.get("rope_theta", 10000.0)),
        "neox": float(not _interleaved(type(module).__module__)), "positions": float(getattr(config, "max_position_embeddings", 8192)),
        "packed": float(not norms), "normed": float(by_head),
    }
    return Op(op="rope", module=type(module).__name__, path=path, tensors={"query": spec(query), "key": spec(key)}, numbers=numbers)


@lru_cache(maxsize=256)
def _interleaved(module: str) -> bool:
    """Whether a model's `rotate_half` pairs neighbouring channels."""
    function = getattr(sys.modules.get(module), "rotate_half", None)
    return function is not None and "::2" in inspect.getsource(function)


def attention(module: nn.Module, hidden: torch.Tensor, path: str) -> Op | None:
    """The attention of a `transformers` module on hidden states ``[batch, length, H]``; None if that is not their form."""
    if hidden.dim() != 3:
        return None
    width, groups, output = _head_width(module), module.num_key_value_groups, module.o_proj
    assert isinstance(groups, int)
    assert isinstance(output, nn.Module)
    heads = parameter(output, "weight").shape[1] // width
    query = TensorSpec((hidden.shape[0], heads, hidden.shape[1], width), spec(hidden).dtype)
    latent = int(getattr(module, "kv_lora_rank", 0))
    numbers = {
        "kv_heads": float(heads // groups), "window": float(getattr(module, "sliding_window", None) or 0),
        "sinks": float(hasattr(module, "sinks")), "latent": float(latent), "turned": float(getattr(module, "qk_rope_head_dim", 0)),
        "causal": float(getattr(module, "is_causal", True)), "cached": 1.0,
        "known": float(latent > 0 or not hasattr(module, "kv_a_proj_with_mqa")),
    }
    return Op(op="attention", module=type(module).__name__, path=path, tensors={"query": query}, numbers=numbers)


def scaled_dot_product(query: torch.Tensor, key: torch.Tensor, masked: bool, causal: bool, path: str) -> Op:
    """Of ``torch.nn.functional.scaled_dot_product_attention``: ``[..., heads, length, d]``. What a mask lets through is not known."""
    shape = (1,) * (4 - query.dim()) + tuple(map(int, query.shape))
    numbers = {
        "kv_heads": float(key.shape[-3] if key.dim() > 2 else 1), "causal": float(causal),
        "known": float(not masked and (query.shape[-2] in (1, key.shape[-2]))),
    }
    tensors = {"query": TensorSpec(shape, spec(query).dtype)}
    return Op(op="attention", module="scaled_dot_product_attention", path=path, tensors=tensors, numbers=numbers)


def cached(module: nn.Module, kwargs: Mapping[str, Any], hidden: torch.Tensor) -> list[int]:
    """Lengths in the cache after a call, one for each sequence: of real tensors what the mask lets through, else the cache's length."""
    mask = kwargs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and values.is_real(mask) and mask.dim() == 4:
        last = mask[:, 0, -1]
        counts: list[int] = (last if last.dtype == torch.bool else last == 0).sum(-1).tolist()
        return counts if len(counts) == hidden.shape[0] else counts * hidden.shape[0]
    cache = kwargs.get("past_key_values")
    length = hidden.shape[1]
    if cache is not None and hasattr(cache, "get_seq_length"):
        length = max(int(cache.get_seq_length(getattr(module, "layer_idx", 0))), length)
    return [int(length)] * int(hidden.shape[0])
