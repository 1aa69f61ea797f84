"""Which task mirrors an observed op, and with which sizes: decided here alone.

`match` answers for ops of any origin: a recorded call, a shape worked out by hand, or an entry of a coverage table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import rules, rules_attention
from .ops import Layout, Match, Op


def match(op: Op, layout: Layout | None = None) -> list[Match]:
    """The workloads of tasks that an op is a call of; none if no task mirrors it.

    Roles of tensors: ``input`` (norms ``[..., H]``, activation ``[..., 2*I]``, linear ``[..., K]``, experts ``[T, H]``), ``half`` (of an
    activation's input, ``[..., I]``), ``weight`` (linear ``[N, K]``), ``down`` (MLP ``[H, I]``), ``query`` and ``key`` (``[batch, heads,
    length, d]``), ``w13`` and ``w2`` (experts ``[E, 2*I, H]`` and ``[E, H, I]``). Logits of a router are its ``input``.

    Args:
        op: The call.
        layout: How the model is spread; one GPU if None.
    """
    rule = _RULES.get(op.op)
    return rule(op, layout or Layout()) if rule else []


_RULES: Mapping[str, Callable[[Op, Layout], list[Match]]] = {
    "rms_norm": rules.rms_norm,
    "add_rms_norm": rules.add_rms_norm,
    "layer_norm": rules.layer_norm,
    "silu_and_mul": rules.gated,
    "gelu_tanh_and_mul": rules.gated,
    "linear": rules.linear,
    "rope": rules_attention.rope,
    "attention": rules_attention.attention,
    "experts": rules.experts,
    "router": rules.router,
    "mlp": rules.mlp,
    "_C::rms_norm": rules.rms_norm,
    "_C::fused_add_rms_norm": rules.add_rms_norm,
    "_C::silu_and_mul": rules.gated,
    "_C::gelu_tanh_and_mul": rules.gated,
    "_C::rotary_embedding": rules_attention.custom(rules_attention.flat_rope, query="query", key="key"),
}

COVERED_BY: Mapping[str, str] = {"_C::rms_norm": "rms_norm", "_C::fused_add_rms_norm": "rms_norm", "_C::silu_and_mul": "silu_and_mul"}
"""Kind of the module inside of which a custom op is that module's own way to compute, and no further call."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("rms_norm",),
    "add_rms_norm": ("fused_add_rms_norm", "allreduce_add_rms_norm"),
    "layer_norm": ("layer_norm",),
    "silu_and_mul": ("silu_and_mul",),
    "gelu_tanh_and_mul": ("gelu_tanh_and_mul",),
    "linear": ("linear_decode", "linear_prefill", "allgather_gemm", "gemm_reduce_scatter"),
    "mlp": ("llama_mlp",),
    "rope": ("rope", "qk_norm_rope"),
    "attention": ("gqa_decode", "gqa_prefill", "sink_attention", "mla_decode", "kv_scatter"),
    "router": ("topk_softmax",),
    "experts": ("fused_experts", "moe_gemm", "silu_and_mul", "moe_finalize", "moe_align", "moe_dispatch"),
}
"""Tasks that may mirror an op, whatever its sizes and layout."""


def op_of_module(name: str) -> str:
    """The op that a module's class stands for by its name alone; empty if the name says nothing.

    Args:
        name: Class name, such as ``LlamaRMSNorm``.
    """
    if "Norm" in name:
        return "rms_norm" if "RMSNorm" in name and "Gated" not in name else "norm"
    if name == "SiluAndMul":
        return "silu_and_mul"
    if name.endswith("Attention"):
        return "attention"
    if name.endswith("Experts"):
        return "experts"
    if name.endswith("MLP"):
        return "mlp"
    if name.endswith(("Router", "TopkRouter", "Linear")):
        return "linear"
    return ""
