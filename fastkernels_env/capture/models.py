"""Runs a model of `transformers` under the recorder: on meta tensors from its configuration alone, or with real ones on the CPU.

A serving engine packs the tokens of a step into rows. So a prompt step is run as one sequence of all its tokens, a decode step as one
token each of its sequences; what a step's caches hold comes from the traffic.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import describe
from .facts import Facts, FactsError
from .observation import Observation
from .recorder import Recorder
from .situations import Batch

_SHAPES = "fastkernels_shapes"
"""Name under which the attention that only has shapes is known to `transformers`."""


class ModelsMissing(RuntimeError):
    """`transformers` is not installed."""


def record(facts: Facts, batches: Sequence[Batch], dtype: str) -> list[Observation]:
    """The ops of a model on meta tensors, for every batch.

    Args:
        facts: The model, or one rank's share of it.
        batches: The steps to run; each counts for the steps that it stands for.
        dtype: Torch dtype of weights and activations.

    Raises:
        ModelsMissing: `transformers` is not installed.
        FactsError: It knows no such model, or the model cannot run on meta tensors.
    """
    model = build(facts, dtype, "meta")
    recorder = Recorder()
    with torch.no_grad(), _stand_ins(model), recorder:
        for batch in batches:
            with recorder.step(batch):
                _run(model, facts, batch)
    return recorder.observations


def _run(model: nn.Module, facts: Facts, batch: Batch) -> None:
    shape = (batch.tokens, 1) if batch.kind == "decode" else (1, batch.tokens)
    ids = torch.zeros(shape, dtype=torch.long, device="meta")
    try:
        model(input_ids=ids, use_cache=False, logits_to_keep=1 if batch.kind == "decode" else batch.sequences)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise FactsError(f"{facts.name} ({facts.kind}) does not run on meta tensors: {error}; capture a script instead") from error


def record_real(model: nn.Module, requests: Sequence[int], outputs: int, vocabulary: int, seed: int) -> list[Observation]:
    """The ops of a model with real tensors: prompts of those lengths, padded on the left, then tokens one by one.

    Args:
        model: A causal language model of `transformers`.
        requests: Lengths of the prompts of one batch.
        outputs: Tokens to generate; each but the first is a decode step.
        vocabulary: Token ids are drawn from [0, vocabulary).
        seed: Seeds them.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(requests)
    ids = torch.randint(vocabulary, (len(requests), longest), generator=generator)
    mask = torch.arange(longest) >= longest - torch.tensor(requests)[:, None]
    recorder = Recorder()
    cache: Any = None
    with torch.no_grad(), recorder:
        for number in range(outputs):
            batch = Batch(kind="decode" if number else "prefill", tokens=ids.numel(), sequences=len(requests), steps=1)
            with recorder.step(batch):
                answer = model(input_ids=ids, attention_mask=mask.long(), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones(len(requests), 1, dtype=torch.bool)], 1)
    return recorder.observations


def build(facts: Facts, dtype: str, device: str) -> nn.Module:
    """A causal language model from configuration facts, with weights of that device (random ones on a CPU). See `record`."""
    library = _transformers()
    try:
        config = library.AutoConfig.for_model(facts.kind, **facts.config)
        with torch.device(device):
            model: nn.Module = library.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FactsError(f"{facts.name}: transformers makes no causal language model of kind {facts.kind!r}: {error}") from error
    return model.eval()


def load_weights(folder: Path, dtype: str) -> nn.Module:
    """A model with the weights in a folder; nothing is fetched."""
    model: nn.Module = _transformers().AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval()


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelsMissing("the capture of a model needs transformers; install it: pip install 'fastkernels-env[models]'") from error


@contextlib.contextmanager
def _stand_ins(model: nn.Module) -> Iterator[None]:
    """Give attention and experts forms that have the right shapes and look at no values: theirs decide by what meta tensors lack."""
    library = _transformers()
    library.AttentionInterface.register(_SHAPES, _attend)
    config: Any = model.config
    before = config._attn_implementation
    experts = [module for module in model.modules() if describe.kind_of(module) == "experts"]
    with contextlib.ExitStack() as stack:
        config._attn_implementation = _SHAPES
        stack.callback(setattr, config, "_attn_implementation", before)
        for module in experts:
            module.forward = _mix
            stack.callback(delattr, module, "forward")
        yield


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """``[batch, heads, length, d]`` to ``[batch, length, heads, width of a value]``."""
    batch, heads, length = query.shape[:3]
    return query.new_empty(batch, length, heads, value.shape[-1]), None


def _mix(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(hidden_states)
