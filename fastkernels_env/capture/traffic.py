"""A small continuous-batching simulator: from lengths of requests to the batches that a server would run.

It has no clock: a step is a step. Arrivals are counted in steps, memory for keys and values is unlimited, and nothing is preempted.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec


class TrafficError(ValueError):
    """A description of traffic that cannot be: the message says what was expected, what came, what to do."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A distribution of lengths in tokens: log-normal, clipped to [low, high]. ``sigma`` 0: all have the median length."""

    median: float
    sigma: float = 0.0
    low: int = 1
    high: int = 1 << 20

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.sigma >= 0 and 1 <= self.low <= self.high):
            raise TrafficError(f"expected lengths with median above 0, sigma of at least 0 and 1 <= low <= high, got {self}")

    def draw(self, rng: random.Random, count: int) -> list[int]:
        """`count` lengths."""
        log = math.log(self.median)
        return [min(max(round(math.exp(rng.gauss(log, self.sigma))), self.low), self.high) for _ in range(count)]

    @property
    def mean(self) -> float:
        """Of the distribution before it is clipped."""
        return self.median * math.exp(self.sigma**2 / 2)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: tokens of its prompt, tokens to generate (the first is that of the prompt's last step), the step of its arrival."""

    prompt: int
    output: int
    arrival: int = 0


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server batches.

    Attributes:
        max_tokens: Tokens that one step may process.
        max_batch: Requests that may be under way at a time.
        chunked: Whether a prompt may be split over steps.
        mixed: Whether prompts and generated tokens share steps (then running requests come first); else prompts have steps of their own,
            which come first.
    """

    max_tokens: int = 16384
    max_batch: int = 1024
    chunked: bool = True
    mixed: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_batch < 1:
            raise TrafficError(f"expected max_tokens and max_batch of at least 1, got {self.max_tokens} and {self.max_batch}")


class Chunk(msgspec.Struct, frozen=True):
    """Tokens of a prompt that a step processes: ``prompt[start : start + count]`` of a request (by its number)."""

    request: int
    start: int
    count: int


class Token(msgspec.Struct, frozen=True):
    """A generated token that a step processes: its request, and how many tokens that has in its cache, this one counted."""

    request: int
    length: int


class Step(msgspec.Struct, frozen=True):
    """One step of the server."""

    prefill: tuple[Chunk, ...] = ()
    decode: tuple[Token, ...] = ()

    @property
    def tokens(self) -> int:
        """Rows of every projection."""
        return sum(chunk.count for chunk in self.prefill) + len(self.decode)

    @property
    def sequences(self) -> int:
        """Requests that take part."""
        return len(self.prefill) + len(self.decode)

    @property
    def kind(self) -> Literal["prefill", "decode", "mixed"]:
        """What the step does."""
        return "mixed" if self.prefill and self.decode else "prefill" if self.prefill else "decode"


def simulate(requests: Sequence[Request], server: Server) -> list[Step]:
    """The steps in which a server answers requests.

    Raises:
        TrafficError: A request can never be served, or has no tokens.
    """
    for number, request in enumerate(requests):
        if request.prompt < 1 or request.output < 1 or request.arrival < 0:
            raise TrafficError(f"expected requests with a prompt and an output of at least one token, got {request} (number {number})")
        if not server.chunked and request.prompt > server.max_tokens:
            raise TrafficError(
                f"request {number} has {request.prompt} prompt tokens, a step at most {server.max_tokens}; allow chunks or raise max_tokens"
            )
    return _Simulation(requests, server).run()


class _Simulation:
    def __init__(self, requests: Sequence[Request], server: Server) -> None:
        self._requests, self._server = requests, server
        self._arriving = deque(sorted(range(len(requests)), key=lambda number: (requests[number].arrival, number)))
        self._waiting: deque[int] = deque()
        self._running: deque[int] = deque()
        self._prefilled = [0] * len(requests)
        self._generated = [0] * len(requests)
        self._started = 0

    def run(self) -> list[Step]:
        steps: list[Step] = []
        now = 0
        while self._arriving or self._waiting or self._running:
            while self._arriving and self._requests[self._arriving[0]].arrival <= now:
                self._waiting.append(self._arriving.popleft())
            step = self._step()
            if step.tokens:
                steps.append(step)
            now = now + 1 if step.tokens or not self._arriving else self._requests[self._arriving[0]].arrival
        return steps

    def _step(self) -> Step:
        under_way = len(self._running) + self._started  # who ends in this step leaves room in the next one
        if self._server.mixed:
            decode = self._decode(self._server.max_tokens)
            return Step(self._prefill(self._server.max_tokens - len(decode), under_way), decode)
        prefill = self._prefill(self._server.max_tokens, under_way)
        return Step(prefill) if prefill else Step((), self._decode(self._server.max_tokens))

    def _decode(self, budget: int) -> tuple[Token, ...]:
        tokens = []
        for _ in range(min(len(self._running), budget)):
            number = self._running.popleft()
            tokens.append(Token(number, self._requests[number].prompt + self._generated[number]))
            self._emit(number)
        return tuple(tokens)

    def _prefill(self, budget: int, under_way: int) -> tuple[Chunk, ...]:
        chunks = []
        finished: list[int] = []
        while self._waiting and budget:
            number = self._waiting[0]
            start = self._prefilled[number]
            left = self._requests[number].prompt - start
            if (start == 0 and under_way >= self._server.max_batch) or (left > budget and not self._server.chunked):
                break
            count = min(left, budget)
            under_way += start == 0
            self._started += start == 0
            budget -= count
            self._prefilled[number] += count
            chunks.append(Chunk(number, start, count))
            if count == left:
                self._waiting.popleft()
                self._started -= 1
                finished.append(number)
        for number in finished:
            self._emit(number)
        return tuple(chunks)

    def _emit(self, number: int) -> None:
        """One more token has come out; the next is computed from it."""
        self._generated[number] += 1
        if self._generated[number] < self._requests[number].output:
            self._running.append(number)
