"""What production asks of a model, as a few traced steps and how often each is run.

A model that generates serves 64 requests of 512 tokens each, in batches of 8, and then 256 steps that give each of them a token. One
with images or recordings reads one per request besides. All else takes one batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import torch

from . import durations, forms, routing, values
from .inputs import OPTIONAL, TOKEN, combinations, longest
from .observations import Call
from .tracing import Tracer

REQUESTS, PROMPT_BATCH, PROMPT, GENERATED = 64, 8, 512, 256
CONTEXT = PROMPT + GENERATED // 2
"""Tokens in the cache at the step that stands for all of them."""
BATCH = 32


_MODALITIES: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "image": ({"pixel_values", "flattened_patches"}, ("vision_config",)),
    "audio": ({"input_features", "input_values"}, ("audio_config",)),
}
"""Kinds of input: the arguments that take them, and the settings that are None where a model has no part for them."""


class Step(msgspec.Struct, kw_only=True):
    """A traced part of a workload."""

    name: str
    count: int
    calls: list[Call]


class NotRun(RuntimeError):
    """Why a model could not be run."""


def run_steps(model: Any, tracer: Tracer, steps: list[Step]) -> str:
    """Run a model the way production does.

    Args:
        model: A model on torch's meta device.
        tracer: An active tracer.
        steps: Takes what was traced.

    Returns:
        What could not be run and why; empty if all was.
    """
    runner = _Runner(model, tracer, steps)
    with torch.no_grad(), torch.device("meta"), routing.routed(model, tracer), durations.even(model), tracer.watching(model):
        if model.config.is_encoder_decoder and model.can_generate():
            parts = [runner.encode_and_decode]
        elif model.can_generate() and model.main_input_name == "input_ids":
            parts = [runner.generate]
        else:
            parts = [runner.batch]
        problems = []
        for part in (*parts, runner.modalities):
            try:
                part()
            except NotRun as error:
                problems.append(str(error))
    return "; ".join(problems)


class _Runner:
    def __init__(self, model: Any, tracer: Tracer, steps: list[Step]) -> None:
        self.model, self.tracer, self.steps = model, tracer, steps
        self.arguments = inspect.signature(_unwrapped(model)).parameters
        self.filled: set[str] = set()
        self.inner = getattr(model, "model", None)
        limit = longest(model.config)
        self.prompt, self.context = min(PROMPT, limit // 2 if limit <= PROMPT and model.can_generate() else limit), min(CONTEXT, limit - 1)
        self.cache = "cache" if "cache" in self.arguments else "past_key_values"

    def generate(self) -> None:
        """Prompts, then steps of one token."""
        more: dict[str, Any] = {"use_cache": True} if "use_cache" in self.arguments else {}
        keep: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in self.arguments else {}
        given, _ = self.first_that_runs("prefill", REQUESTS // PROMPT_BATCH, PROMPT_BATCH, self.prompt, more | keep)
        long = self.like(given, self.context)
        output = self.quietly("decode", {**long, **more, **keep})
        past = getattr(output, self.cache, None)
        if past is None and self.cache in self.arguments and not _other_state(output):
            past = self.filled_cache({**long, **more, **keep})
        token = self.like(given, 1)
        kept = {self.cache: past} if past is not None else _other_state(output)
        more |= {name: state for name in _OWN_STATES if name in self.arguments and (state := getattr(output, name, None)) is not None}
        self.run("decode", GENERATED, {**token, **more, **kept})

    def filled_cache(self, given: dict[str, Any]) -> Any:
        """The cache of a model that fills one but makes none; None if it takes none either."""
        from transformers import DynamicCache

        try:
            cache = DynamicCache(config=self.model.config)
            self.quietly("decode", {**given, self.cache: cache})
        except (NotRun, ValueError, AttributeError):
            return None
        return cache

    def like(self, given: dict[str, Any], length: int) -> dict[str, Any]:
        """The arguments of a prefill for all requests and another length."""
        config = self.model.config
        formed = forms.given(config, "decode", REQUESTS, self.context + 1) if length == 1 else None
        formed = formed or forms.given(config, "prefill", REQUESTS, length)
        return formed or next(iter(combinations(list(given), self.model.config, REQUESTS, length)))

    def encode_and_decode(self) -> None:
        """Inputs through encoder and decoder with one token, then steps of the decoder alone."""
        more: dict[str, Any] = {"use_cache": True} if "use_cache" in self.arguments else {}
        given, _ = self.first_that_runs("encode", REQUESTS // PROMPT_BATCH, PROMPT_BATCH, self.prompt, more)
        names = list(given)
        wide = {name: _widened(x, PROMPT_BATCH, REQUESTS) for name, x in given.items()}
        books = wide.get("decoder_input_ids")
        if books is not None and books.dim() == 2 and not books.is_floating_point():
            wide["decoder_input_ids"] = values.known(torch.full((books.shape[0], min(GENERATED // 2, self.context)), TOKEN, device="cpu"))
        output = self.quietly("decode", {**wide, **more})
        past = getattr(output, self.cache, None)
        encoded = getattr(output, "encoder_last_hidden_state", None)
        encoders = {self.model.main_input_name, *OPTIONAL} - {"decoder_input_ids"}
        step: dict[str, Any] = {n: x for n, x in wide.items() if n not in encoders}
        if "decoder_input_ids" in names:
            step["decoder_input_ids"] = _widened(given["decoder_input_ids"], PROMPT_BATCH, REQUESTS)
        if encoded is not None and "encoder_outputs" in self.arguments:
            from transformers.modeling_outputs import BaseModelOutput

            step["encoder_outputs"] = BaseModelOutput(last_hidden_state=encoded)
            step["encoder_outputs"].attention_mask = step["encoder_outputs"].router_logits = None  # some encoders hand them on
        else:
            step |= {n: x for n, x in wide.items() if n not in step}
        self.run("decode", GENERATED, {**step, **more, self.cache: past})

    def batch(self) -> None:
        """One batch."""
        self.first_that_runs("batch", 1, BATCH, self.prompt, {}, getattr(self.model, "sample_actions", None))

    def modalities(self) -> None:
        """What reads images and recordings, where the steps so far have not."""
        for kind, (arguments, parts) in _MODALITIES.items():
            name = f"get_{kind}_features"
            function = getattr(self.model, name, None) or getattr(self.inner, name, None)
            absent = any(getattr(self.model.config, part, part) is None for part in parts)
            if function is not None and not absent and not self.filled & arguments:
                self.first_that_runs(kind, REQUESTS // PROMPT_BATCH, PROMPT_BATCH, self.prompt, {}, function)

    def first_that_runs(
        self, name: str, count: int, batch: int, length: int, more: dict[str, Any], function: Callable[..., Any] | None = None,
    ) -> tuple[dict[str, Any], Any]:
        """Run with one set of inputs after another, until one does not fail.

        Raises:
            NotRun: All failed; says how the first one of the most complete did.
        """
        function = function or self.model
        formed = forms.given(self.model.config, name, batch, length)
        if formed is not None:
            self.filled.update(formed)
            return formed, self.run(name, count, {**formed, **more}, function)
        problem: Exception | None = None
        for names in _argument_sets(self.model, function, self.inner):
            first = True
            for given in combinations(names, self.model.config, batch, length):
                try:
                    result = self.run(name, count, {**given, **more}, function)
                    self.filled.update(given)
                    return given, result
                except NotRun as error:
                    problem, first = error if first or problem is None else problem, False
        raise problem or NotRun(f"{name}: no input is known for it")

    def run(self, name: str, count: int, given: dict[str, Any], function: Callable[..., Any] | None = None) -> Any:
        """Run and keep what was traced."""
        self.tracer.start()
        try:
            result = (function or self.model)(**given)
        except Exception as error:
            self.tracer.stop()
            raise NotRun(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        self.steps.append(Step(name=name, count=count, calls=self.tracer.stop()))
        return result

    def quietly(self, name: str, given: dict[str, Any]) -> Any:
        """Run without keeping anything."""
        result = self.run(name, 0, given)
        self.steps.pop()
        return result


def _argument_sets(model: Any, function: Callable[..., Any], inner: Any) -> list[list[str]]:
    parameters = inspect.signature(_unwrapped(function)).parameters
    same = getattr(inner, getattr(function, "__name__", ""), None)
    if same is not None and any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        parameters = inspect.signature(_unwrapped(same)).parameters
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    mains = model.main_input_name if isinstance(model.main_input_name, list) else [model.main_input_name]
    few = list(dict.fromkeys([*(main for main in mains if main in parameters), *required]))
    if model.config.is_encoder_decoder and "decoder_input_ids" in parameters:
        few.append("decoder_input_ids")
    many = [n for n in parameters if n in OPTIONAL or n in few]
    masked = [*many, *(n for n in ("attention_mask",) if n in parameters)]
    sets: list[list[str]] = []
    for names in (few, many, masked):
        if names and names not in sets:
            sets.append(names)
    return sets


def _unwrapped(function: Any) -> Any:
    return inspect.unwrap(type(function).forward) if isinstance(function, torch.nn.Module) else inspect.unwrap(function)


def _widened(tensor: torch.Tensor, old: int, new: int) -> torch.Tensor:
    factor = new // old
    return tensor.repeat(factor, *(1 for _ in tensor.shape[1:]))


_OWN_STATES = ("encoder_cache", "padding_cache")
"""What a model remembers besides the cache of its text."""


def _other_state(output: Any) -> dict[str, Any]:
    """The state of models that keep one of their own."""
    return {name: getattr(output, name) for name in ("cache_params", "state", "mems") if getattr(output, name, None) is not None}
