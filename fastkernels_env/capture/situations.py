"""Serving situations by name, and the batches in them that are worth a row.

`workloads.toml` beside this module holds the shipped ones. A situation is one batch that repeats, or requests that are simulated.
"""

from __future__ import annotations

import math
import random
import statistics
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from .traffic import Lengths, Request, Server, Step, TrafficError, simulate

MOST_BATCHES = 4
"""Of one kind of step: the smallest, the median, the largest, and the most frequent."""


class Context(msgspec.Struct, frozen=True):
    """Lengths in the key-value cache of a decode batch: what a log-normal distribution needs, and the mean."""

    median: float
    sigma: float
    low: float
    high: float
    mean: float


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a step does, and for how many steps it stands.

    Attributes:
        tokens: Rows of every projection.
        sequences: Requests among which they are divided.
        steps: Steps for which it stands: its own, and those of the batches it is the nearest to.
        context: Of decode and mixed steps: lengths in the cache of the running requests.
        running: Of mixed steps: how many of the sequences those are.
    """

    kind: Literal["prefill", "decode", "mixed"]
    tokens: int
    sequences: int
    steps: int
    context: Context | None = None
    running: int = 0


class Situation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serving situation.

    Attributes:
        summary: In words, for the rows' ``source``.
        prefill: Tokens of a prompt step that repeats ...
        sequences: ... from so many requests.
        decode: Size of a decode batch that repeats ...
        context: ... with caches of these lengths.
        steps: How often the one or the other repeats.
        requests: How many requests are simulated, with prompts and outputs of these lengths.
        gap: Mean number of steps between two arrivals (exponential); 0: all arrive at once.
    """

    summary: str
    prefill: int = 0
    sequences: int = 1
    decode: int = 0
    context: Lengths | None = None
    steps: int = 1
    requests: int = 0
    gap: float = 0.0
    prompt: Lengths | None = None
    output: Lengths | None = None
    server: Server = Server()

    def __post_init__(self) -> None:
        if sum(value > 0 for value in (self.prefill, self.decode, self.requests)) != 1:
            raise TrafficError("expected a workload to have one of prefill, decode and requests, above 0")
        if self.decode and self.context is None:
            raise TrafficError("expected a workload that repeats a decode batch to have context, the lengths in its caches")
        if self.requests and (self.prompt is None or self.output is None):
            raise TrafficError("expected a workload of requests to have prompt and output, the distributions of their lengths")
        if self.steps < 1 or not 1 <= self.sequences <= max(self.prefill, 1) or self.gap < 0:
            raise TrafficError("expected steps of at least 1, sequences from 1 to prefill, and a gap of at least 0")

    def steps_of(self, seed: int) -> list[Step]:
        """The simulated steps; the same for the same seed."""
        assert self.prompt is not None
        assert self.output is not None
        rng = random.Random(seed)
        prompts, outputs = self.prompt.draw(rng, self.requests), self.output.draw(rng, self.requests)
        now, arrivals = 0.0, []
        for _ in prompts:
            arrivals.append(int(now))
            now += rng.expovariate(1 / self.gap) if self.gap else 0.0
        requests = [Request(prompt=p, output=o, arrival=a) for p, o, a in zip(prompts, outputs, arrivals, strict=True)]
        return simulate(requests, self.server)

    def batches(self, seed: int = 0, most: int = MOST_BATCHES) -> list[Batch]:
        """A handful of batches that stand for all steps, at most `most` of each kind. Their steps add up to all of them."""
        if self.prefill:
            return [Batch(kind="prefill", tokens=self.prefill, sequences=self.sequences, steps=self.steps)]
        if self.decode:
            assert self.context is not None
            c = self.context
            context = Context(c.median, c.sigma, c.low, c.high, c.mean)
            return [Batch(kind="decode", tokens=self.decode, sequences=self.decode, steps=self.steps, context=context)]
        steps = self.steps_of(seed)
        kinds = ("prefill", "decode", "mixed")
        return [batch for kind in kinds for batch in _represent([step for step in steps if step.kind == kind], most)]


def _represent(steps: Sequence[Step], most: int) -> list[Batch]:
    """Batches that stand for steps of one kind; every step is counted for the one with the nearest number of tokens (as a ratio)."""
    if not steps:
        return []
    chosen = representatives(Counter(step.tokens for step in steps), most)
    groups: dict[int, list[Step]] = {tokens: [] for tokens in chosen}
    for step in steps:
        groups[nearest(step.tokens, chosen)].append(step)
    return [_batch(tokens, group) for tokens, group in groups.items()]


def _batch(tokens: int, group: Sequence[Step]) -> Batch:
    own = [step for step in group if step.tokens == tokens]
    sequences = round(statistics.median(step.sequences for step in own))
    running = round(statistics.median(len(step.decode) for step in own))
    lengths = [token.length for step in group for token in step.decode]
    context = fit(lengths) if lengths else None
    return Batch(kind=group[0].kind, tokens=tokens, sequences=sequences, steps=len(group), context=context, running=running)


def representatives(counts: Mapping[int, int], most: int = MOST_BATCHES) -> list[int]:
    """Of sizes and how often each occurs: the largest, the most frequent, the median and the smallest, at most `most`; ascending."""
    ordered = sorted(counts)
    total, passed, median = sum(counts.values()), 0, ordered[-1]
    for size in ordered:
        passed += counts[size]
        if 2 * passed >= total:
            median = size
            break
    hottest = max(ordered, key=lambda size: (counts[size], size))
    wanted = list(dict.fromkeys((ordered[-1], hottest, median, ordered[0])))
    return sorted(wanted[:most])


def nearest(size: int, chosen: Sequence[int]) -> int:
    """The one of `chosen` to which `size` has the smallest ratio; the larger one of two."""
    return min(chosen, key=lambda other: (abs(math.log(size / other)), -other))


def fit(lengths: Sequence[int]) -> Context:
    """The log-normal distribution that lengths come nearest to."""
    logs = [math.log(length) for length in lengths]
    median = round(math.exp(statistics.median(logs)))
    sigma = round(statistics.pstdev(logs), 2)
    return Context(median, sigma, min(lengths), max(lengths), round(statistics.fmean(lengths), 1))


def shipped() -> dict[str, Situation]:
    """The situations of `workloads.toml`, by name."""
    return _read(resources.files(__package__).joinpath("workloads.toml").read_text(), "workloads.toml")


def load(name: str) -> dict[str, Situation]:
    """One situation by its name, or all those of a TOML file, a table each.

    Raises:
        TrafficError: There is no such name, or the file is no list of situations; the message says what to do.
    """
    known = shipped()
    if name in known:
        return {name: known[name]}
    if not name.endswith(".toml"):
        raise TrafficError(f"there is no workload {name!r}; known are {', '.join(known)}, or name a .toml file with your own")
    try:
        return _read(Path(name).read_text(), name)
    except OSError as error:
        raise TrafficError(f"the workloads {name} cannot be read ({error.strerror}); name a .toml file") from error


def _read(text: str, name: str) -> dict[str, Situation]:
    try:
        return msgspec.convert(tomllib.loads(text), dict[str, Situation])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise TrafficError(f"{name} is no list of workloads, a table each: {error}") from error
