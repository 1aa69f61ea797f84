"""Measures of agreement for tasks whose outputs are not judged element by element: tokens, embeddings, boxes.

Each gives the share by which an output disagrees with the oracle, and the share that is allowed: what production itself disagrees by on
the same inputs, twice, but no less than `LEAST` and no more than `MOST` (the bounds that the FastKernels leaderboard gives its noise floor
of two runs of the baseline).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

LEAST = 1e-3
MOST = 0.5


class Agreement(NamedTuple):
    """How far an output is off under a task's own measure.

    Attributes:
        discrepancy: 0 where it agrees in full, 1 where it does in nothing.
        limit: The largest discrepancy that passes.
        elements: How many things were compared.
        told: What the discrepancy is, in a clause.
    """

    discrepancy: float
    limit: float
    elements: int
    told: str

    @property
    def ok(self) -> bool:
        """Whether it passes. A discrepancy that is no number does not."""
        return self.discrepancy <= self.limit


def allowed(baseline: float, least: float = LEAST) -> float:
    """The limit where production's own discrepancy on these inputs is `baseline`."""
    return min(max(2 * baseline, least), MOST)


def tokens_agree(
    actual: torch.Tensor, expected: torch.Tensor, given: torch.Tensor, scores: torch.Tensor, slack: float, baseline: float = 0.0
) -> Agreement:
    """Greedy tokens of several steps, each fed back from step `given` on.

    Where a token differs from the oracle's, what follows in that sequence was asked something else: those positions are left out. A
    token whose score is within `slack` of the best is as good as it: then the sequence is left out from there on, without blame.

    Args:
        actual: int ``[B, S]``.
        expected: The oracle's, int ``[B, S]``.
        given: Tokens of each sequence that were not its own, int ``[B]``: those before step ``given[b]`` are fed whatever it said.
        scores: The oracle's score of every token at every step, float64 ``[B, S, V]``, along its own tokens.
        slack: Difference of scores that rounding explains.
        baseline: Discrepancy of a production implementation.
    """
    steps = torch.arange(actual.shape[1], device=actual.device)
    differs = actual != expected
    inside = (actual >= 0) & (actual < scores.shape[-1])
    chosen = scores.gather(-1, actual.clamp(0, scores.shape[-1] - 1).long()[..., None])[..., 0]
    tied = differs & inside & (scores.amax(-1) - chosen <= slack)
    own = differs & (steps >= given[:, None] - 1)  # what is fed back
    earlier = own.int().cumsum(1) - own.int()
    compared = (earlier == 0) & ~tied
    count = int(compared.sum())
    wrong = int((differs & compared).sum())
    share = wrong / count if count else float(actual.numel() > 0)
    return Agreement(share, allowed(baseline), count, f"{wrong} of {count} tokens are not the reference's")


def cosines_agree(actual: torch.Tensor, expected: torch.Tensor, baseline: float = 0.0, least: float = LEAST) -> Agreement:
    """Vectors (last dimension), by the largest ``1 - cosine`` among them; one that is not finite, or zero, disagrees in full."""
    a, e = (values.reshape(-1, values.shape[-1]).double() for values in (actual, expected))
    if not len(a):
        return Agreement(0.0, allowed(baseline, least), 0, "no vectors")
    cosine = torch.nn.functional.cosine_similarity(a, e, dim=-1, eps=1e-300)
    off = (1 - cosine).nan_to_num(1.0, 1.0, 1.0).clamp_min(0.0)
    worst = float(off.max())
    return Agreement(worst, allowed(baseline, least), len(a), f"the worst of {len(a)} vectors has a cosine of {1 - worst:.6f}")


def boxes_agree(
    actual: torch.Tensor, expected: torch.Tensor, threshold: float, baseline: float = 0.0, overlap: float = 0.5
) -> Agreement:
    """Detections, by one less the F1 score of the boxes that match one of the other side's.

    Args:
        actual: ``[B, K, 6]``: corners ``x0, y0, x1, y1``, score, class, in any order.
        expected: The oracle's, same shape.
        threshold: Score from which a box is a detection.
        baseline: Discrepancy of a production implementation.
        overlap: Intersection over union from which boxes of one class match.
    """
    a, e = actual.double().nan_to_num(0.0, 0.0, 0.0), expected.double()
    found, wanted = a[..., 4] >= threshold, e[..., 4] >= threshold
    same = a[:, :, None, 5] == e[:, None, :, 5]
    match = (overlaps(a[:, :, None, :4], e[:, None, :, :4]) >= overlap) & same & found[:, :, None] & wanted[:, None]
    hits = int(match.any(2).sum()) + int(match.any(1).sum())
    total = int(found.sum()) + int(wanted.sum())
    score = hits / total if total else 1.0  # the mean of precision and recall, each by its number of boxes, is F1
    return Agreement(1 - score, allowed(baseline), total, f"F1 of the matched boxes is {score:.4f}")


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes ``[..., 4]`` (corners), which broadcast; 0 where both are empty."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-300)
