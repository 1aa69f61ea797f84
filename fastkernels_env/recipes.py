"""Input recipes that tasks share: activations, parameters, biases of scores, sequence lengths, routing.

Values matter: zeros or plain normal inputs let wrong kernels pass and make right ones look faster than they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .types import Regime

OUTLIER_SHARE = 1e-3
HUGE = 1 << 30
"""From this many elements on a tensor repeats a block: drawing each would take seconds and twice the memory."""
_BLOCK = 1 << 24
_ROW_KINDS = 32
"""One row in so many gets each of the treatments of `vary_rows`."""
_SIDED = 16
"""Buckets of distances on each side in `Draw.distance_bias`, as T5 has them."""
_APART = 4
"""One query in so many of one head has biases out of the ordinary there."""


class Draw:
    """Seeded generators for one set of inputs.

    Args:
        seed: Seeds the values.
        shared_seed: Seeds the structure that every entry of a timing ring has in common.
        regime: How values and structure are drawn.
        device: Torch device on which tensors are made.
        weights: Parameters and matrices of a draw of the same task and workload, in order, to be used again; if it is empty, those of
            this draw are put there. Most of a draw's time goes into them, and a timing ring holds few copies.
    """

    def __init__(self, seed: int, shared_seed: int, regime: Regime, device: str, weights: list[torch.Tensor] | None = None) -> None:
        self.regime = regime
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.host = torch.Generator("cpu").manual_seed(seed)
        self.shared = torch.Generator("cpu").manual_seed(shared_seed)
        self._weights, self._used = weights, 0

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Standard normal values times `scale`, of `shape` and `dtype`."""
        return self._repeat(shape, lambda part: self._standard(part).mul_(scale).to(dtype))

    def activation(self, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Activations of `shape`: in the `NORMAL` regime standard normal; otherwise with a log-normal scale per channel (last
        dimension, sigma 0.5) and 0.1 % outliers at 20 to 50 times the scale.
        """
        return self._repeat(shape, lambda part: self._activation(part).mul_(scale).to(dtype))

    def _standard(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=torch.float32)

    def _activation(self, shape: tuple[int, ...]) -> torch.Tensor:
        values = self._standard(shape)
        if self.regime is not Regime.NORMAL and values.numel():
            channels = torch.randn(shape[-1], generator=self.generator, device=self.device)
            values.mul_(channels.mul_(0.5).exp_())
            count = max(1, int(values.numel() * OUTLIER_SHARE))
            where = torch.randint(values.numel(), (count,), generator=self.generator, device=self.device)
            factor = torch.rand(count, generator=self.generator, device=self.device).mul_(30).add_(20)
            sign = torch.randint(2, (count,), generator=self.generator, device=self.device).mul_(2).sub_(1)
            values.view(-1)[where] = factor * sign
        return values

    def _repeat(self, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
        """`make(shape)`; if that is `HUGE`, rows of a smaller block over and over, an odd number so that no power of two repeats."""
        if math.prod(shape) < HUGE:
            return make(shape)
        block = make((_BLOCK // shape[-1] | 1, shape[-1]))
        values = torch.empty(shape, dtype=block.dtype, device=block.device)
        rows = values.view(-1, shape[-1])
        for first in range(0, len(rows), len(block)):
            rows[first : first + len(block)] = block[: len(rows) - first]
        return values

    def vary_rows(self, values: torch.Tensor, large: float, small: float) -> torch.Tensor:
        """Give some rows (last dimension) an unusual content, in place: `large` or `small` times their values, zeros, one value
        everywhere, one sign everywhere. In the `NORMAL` regime nothing changes. Returns `values`.
        """
        if self.regime is Regime.NORMAL or not values.numel() or values.numel() >= HUGE:
            return values
        rows = values.view(-1, values.shape[-1])
        source = self.host if values.is_cuda else self.generator  # a GPU that others use too is waited for whenever it tells something
        kinds = torch.randint(_ROW_KINDS, (len(rows),), generator=source, device=source.device)
        changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
            lambda x: x * large, lambda x: x * small, torch.zeros_like, lambda x: x[:, :1].clamp(-large, large).expand_as(x), torch.abs,
        )
        for kind, change in enumerate(changes):
            chosen = (kinds == kind).nonzero().flatten().to(values.device, non_blocking=True)
            rows[chosen] = change(rows[chosen])
        return values

    def parameter(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A norm's weight: never ones, so that a kernel that ignores it fails. Uniform in [0.70, 1.30]."""
        return self.weight(lambda: self._parameter(shape, dtype))

    def _parameter(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        values = torch.rand(shape, generator=self.generator, device=self.device)
        shift = torch.rand(shape, generator=self.generator, device=self.device)
        return values.mul_(0.5).add_(0.75).add_(shift.mul_(0.1).sub_(0.05)).to(dtype)

    def weight(self, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A weight of the task's own making: `draw` is called once for all draws that share their weights."""
        if self._weights is None:
            return draw()
        if self._used == len(self._weights):
            self._weights.append(draw())
        self._used += 1
        return self._weights[self._used - 1]

    def matrix(self, shape: tuple[int, ...], dtype: torch.dtype, fan_in: int, one_sign: bool = False) -> torch.Tensor:
        """A projection's weight: normal with standard deviation ``1 / sqrt(fan_in)``, so that outputs are of order one.

        With `one_sign` a few rows hold no negative numbers (but in the `NORMAL` regime): where an input row does neither, the sum
        grows with the depth, and one in low precision drifts away.
        """
        return self.weight(lambda: self._matrix(shape, dtype, fan_in, one_sign))

    def _matrix(self, shape: tuple[int, ...], dtype: torch.dtype, fan_in: int, one_sign: bool) -> torch.Tensor:
        values = self.normal(shape, dtype, 1 / math.sqrt(fan_in))
        if one_sign and self.regime is not Regime.NORMAL and 0 < values.numel() < HUGE:
            rows = values.view(-1, shape[-1])
            chosen = torch.randint(len(rows), (-(-len(rows) // _ROW_KINDS),), generator=self.generator, device=self.device)
            rows[chosen] = rows[chosen].abs()
        return values

    def distance_bias(self, heads: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Biases of attention scores ``[heads, length, length]``, by head, query and key.

        By distance, in buckets that grow, as a T5 learns it; and noise on it, so that a kernel that counts on the pattern fails.
        Of some queries of one head all biases lie far below zero, and some queries of another look at the first token alone: a softmax
        without its true maximum comes to nothing or overflows. The `NORMAL` regime has the pattern alone.
        """
        distance = torch.arange(length, device=self.device)
        distance = distance[:, None] - distance
        bucket = (4 * (1 + distance.abs()).log2()).int().clamp_max(_SIDED - 1) + _SIDED * (distance > 0)
        learned = self.normal((heads, 2 * _SIDED), torch.float32, 2.0)[:, bucket]
        if self.regime is not Regime.NORMAL:
            learned += self.normal(learned.shape, torch.float32)
            low, high = torch.randint(heads, (2,), generator=self.host).tolist()
            learned[low, ::_APART] -= 120.0
            learned[high, ::_APART, :1] += 120.0
        return learned.to(dtype)

    def lengths(self, count: int, median: float, sigma: float, low: int, high: int) -> torch.Tensor:
        """`count` sequence lengths (int64, on the host): log-normal, clipped to [low, high].

        The multiset comes from `shared`, so that every entry of a ring costs the same; the order is this draw's own. In the
        `SKEWED` regime one sequence has the full length `high` and the others are short.
        """
        if self.regime is Regime.SKEWED:
            lengths = torch.randint(low, max(low + 1, min(high, 4 * low)), (count,), generator=self.shared)
            lengths[:1] = high
        else:
            spread = torch.randn(count, generator=self.shared).mul_(sigma).exp_().mul_(median)
            lengths = spread.round_().long().clamp_(low, high)
        return lengths[torch.randperm(count, generator=self.host)]

    def permutation(self, count: int) -> torch.Tensor:
        """A random permutation (int64, on the host)."""
        return torch.randperm(count, generator=self.host)

    def routing(self, tokens: int, experts: int, top_k: int, zipf: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert choice of every token: ids int64 ``[tokens, top_k]`` (distinct in a row) and normalised float32 weights, on the host.

        Some routers are sure and some are not: the weights of a token differ by up to ``exp(6)``, so that no expert may be left out.
        Gumbel top-k over a Zipf popularity whose expert order is permuted per draw. In the `SKEWED` regime a hot set of an eighth
        of the experts takes all tokens and the other experts stay empty; in the `NORMAL` regime routing is uniform.
        """
        popularity = torch.zeros(experts)
        if self.regime is Regime.SKEWED:
            popularity[max(top_k, experts // 8):] = -1e9
        elif self.regime is Regime.REALISTIC:
            popularity = -zipf * torch.arange(1, experts + 1, dtype=torch.float32).log()
        noise = torch.rand(tokens, experts, generator=self.shared).clamp_(1e-9, 1 - 1e-7)
        scores = popularity - (-noise.log()).log()
        ids = scores.topk(top_k, dim=1).indices
        ids = torch.randperm(experts, generator=self.host)[ids]
        spread = torch.rand(tokens, 1, generator=self.host).mul_(6)
        weights = torch.rand(tokens, top_k, generator=self.host).mul_(spread).exp_()
        return ids, weights / weights.sum(1, keepdim=True)
