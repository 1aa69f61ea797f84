"""Experts whose code asks which of them are hit: noted as one call, with rows routed to all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import values
from .tracing import Tracer

Share = Callable[[Any, torch.Tensor, torch.Tensor], float]
"""How many rows a module's experts are given, by what it is called with."""


def hit_by(rows: float, experts: int) -> float:
    """How many experts rows reach that are routed to any of them alike."""
    return float(experts * (1 - (1 - 1 / experts) ** rows))


@contextmanager
def routed(model: torch.nn.Module, tracer: Tracer) -> Iterator[None]:
    """Within it, experts that transformers' own interface does not know are noted as one call each."""
    changed = []
    for module in model.modules():
        kind = type(module).__name__
        if kind in _SHARES:
            module.forward = _experts(module, tracer, _SHARES[kind])
            changed.append(module)
        elif kind in _SORTED:
            module.forward = _sorted_experts(module, tracer)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def uniform(indices: torch.Tensor, experts: int) -> None:
    """Say that rows were routed to one expert after the other."""
    values.attach(indices, (torch.arange(indices.numel(), device="cpu") % experts).reshape(indices.shape))


def _experts(module: torch.nn.Module, tracer: Tracer, share: Share) -> Callable[..., torch.Tensor]:
    def forward(hidden_states: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return _note(module, tracer, hidden_states, share(module, hidden_states, indices), [indices, weights], int(hidden_states.shape[-1]))

    return forward


def _sorted_experts(module: torch.nn.Module, tracer: Tracer) -> Callable[..., torch.Tensor]:
    """One product of experts, ``weight [experts, out, in]``, with rows that are sorted by expert already."""
    width = module.get_parameter("weight").shape[1]

    def forward(inputs: torch.Tensor, expert_size: Any) -> torch.Tensor:
        return _note(module, tracer, inputs, float(inputs.shape[0]), [], width)

    return forward


def _note(
    module: Any, tracer: Tracer, hidden_states: torch.Tensor, rows: float, routing: list[torch.Tensor], width: int,
) -> torch.Tensor:
    parameters = list(module.parameters())
    experts = int(getattr(module, "num_routed_experts", None) or module.num_experts)
    hit = hit_by(rows, experts)
    recording, tracer.recording = tracer.recording, False
    result = hidden_states.new_empty((*hidden_states.shape[:-1], width))
    sizes = [p.numel() / (p.shape[0] if p.dim() == 3 else experts) for p in parameters]
    touched = [p.flatten().narrow(0, 0, max(1, round(size * hit))) for p, size in zip(parameters, sizes, strict=True)]
    tracer.recording = recording
    flops = round(2 * rows * sum(size for p, size in zip(parameters, sizes, strict=True) if p.dim() > 1))
    facts = {"rows": hidden_states.numel() // hidden_states.shape[-1], "hit": round(hit)}
    tracer.note("experts", [hidden_states, *routing, *touched], result, flops, facts)
    return result


def _each(count: int) -> Share:
    return lambda module, hidden_states, indices: count * hidden_states.numel() / hidden_states.shape[-1]


def _listed(module: Any, hidden_states: torch.Tensor, indices: torch.Tensor) -> float:
    return float(indices.numel())


def _listed_or_none(module: Any, hidden_states: torch.Tensor, indices: torch.Tensor) -> float:
    """Some of the experts do nothing."""
    return float(indices.numel() * module.num_routed_experts / module.total_experts)


_SHARES: dict[str, Share] = {
    "DbrxExperts": _listed, "LongcatFlashExperts": _listed_or_none, "NllbMoeExperts": _each(2), "Step3p7Experts": _listed,
    "SwitchTransformersExperts": _each(1),
}
_SORTED = frozenset(("JetMoeParallelExperts",))
ROUTERS = frozenset(("JetMoeTopKGating",))
"""Modules that count the rows of each expert."""
