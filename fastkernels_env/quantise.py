"""Eight-bit floating-point numbers with a scale for each block, as production stores activations and weights.

Codes are ``float8_e4m3fn``: the largest is 448, and there are no infinities. A value is its code times the scale of its block; a block is
some consecutive elements of a row (activations), or a rectangle (weights). The judge compares codes as numbers: `N2` says how close they
must be to the exact quotient of value and scale, which is what an oracle returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import torch

from .statements import N1, Gate

if TYPE_CHECKING:
    from .recipes import Draw

CODES = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest code."""
GROUP = 128
"""Elements that share a scale, in each direction that blocks have."""
LEAST_SCALE = 1 / (512 * LARGEST)
"""Production's lower bound on the scale of activations: what is that small all over becomes zero, and no block divides by zero."""

N2 = msgspec.structs.replace(
    N1,
    name="N2, codes within half a step",
    gates={**N1.gates, "float8_e4m3fn": Gate(2.0**-10, 2.0**-4)},
    smoke={**N1.smoke, "float8_e4m3fn": Gate(0.125, 0.125)},
    roundings=0.0,
)
"""As `N1`, and codes are the nearest ones: a number is at most 2^-4 of itself away from the nearest code, or 2^-10 below the normal ones.

Truncation, or a scale that is one or two per cent off, puts more than the permitted 1 % of the elements outside. Production's own error
widens nothing: it is that of the codes, and beside a large neighbour it would excuse all that is small.
"""


def block_scales(values: torch.Tensor, rows: int, columns: int, least: float = 0.0) -> torch.Tensor:
    """The scale of each block of `rows` by `columns` elements of a matrix: its largest magnitude becomes the largest code.

    Blocks at the edges may be smaller. The result has the dtype of `values`.
    """
    height, width = values.shape
    down, across = -(-height // rows), -(-width // columns)
    padded = torch.nn.functional.pad(values.abs(), (0, across * columns - width, 0, down * rows - height))
    return padded.view(down, rows, across, columns).amax((1, 3)).div_(LARGEST).clamp_min_(least)


def spread(scales: torch.Tensor, shape: tuple[int, ...] | torch.Size, rows: int, columns: int) -> torch.Tensor:
    """The scale of every element of a matrix of `shape`."""
    return scales.repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def nearest_codes(quotients: torch.Tensor) -> torch.Tensor:
    """Quotients of values and scales as codes; beyond the largest code there is none."""
    return quotients.clamp(-LARGEST, LARGEST).to(CODES)


def quantise(values: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and float32 scales of a matrix. A block of zeros has the scale `LEAST_SCALE`, as production's do."""
    scales = block_scales(values.float(), rows, columns, LEAST_SCALE)
    return nearest_codes(values.float() / spread(scales, values.shape, rows, columns)), scales


def dequantise(codes: torch.Tensor, scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The values that codes and scales mean, in float64."""
    return codes.double() * spread(scales.double(), codes.shape, rows, columns)


def quantised_activation(draw: Draw, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations in codes ``[T, K]`` with a float32 scale for every `GROUP` elements of a row, ``[T, ceil(K / GROUP)]``."""
    return quantise(draw.vary_rows(draw.activation(shape, torch.float32), 4.0, 1e-3), 1, GROUP)


def quantised_matrix(draw: Draw, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A projection's weight in codes ``[N, K]`` with a float32 scale for every block of `GROUP` by `GROUP`; outputs are of order one.

    Blocks differ in size by more than rounding does, so that each must have its own scale. One row of 32 has no negative numbers: where
    an input row has none either, a sum in low precision drifts away.
    """
    made: list[torch.Tensor] = []

    def codes() -> torch.Tensor:
        blocks = torch.randn(-(-shape[0] // GROUP), -(-shape[1] // GROUP), generator=draw.generator, device=draw.device)
        values = draw.normal(shape, torch.float32, shape[1] ** -0.5).mul_(spread(blocks.mul_(0.5).exp_(), shape, GROUP, GROUP))
        values[::32] = values[::32].abs()
        made.extend(quantise(values, GROUP, GROUP))
        return made[0]

    return draw.weight(codes), draw.weight(lambda: made[1])
