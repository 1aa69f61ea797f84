"""Pieces of splatting tasks: blending against a loop over one pixel, distance from the bounds, lists."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
import torch

from fastkernels_env import splats
from fastkernels_env.judge.cases import make_case
from fastkernels_env.registry import load_task
from fastkernels_env.types import Regime

TASK = load_task("gaussian_rasterize")


def drawn(seed, regime=Regime.REALISTIC):
    public = TASK.workloads("cpu")[0]
    small = msgspec.structs.replace(public, sizes={**public.sizes, "C": 2, "H": 21, "W": 35, "per": 4, "list": 12})
    return make_case(TASK, small, regime, seed, "cpu")


def blended(args, camera, y, x):
    """Colours and coverage of one pixel by the definition, one Gaussian after another."""
    starts, ids = args["isect_offsets"].flatten().tolist(), args["flatten_ids"].tolist()
    _, rows, columns = args["isect_offsets"].shape
    tile = (camera * rows + y // 16) * columns + x // 16
    color, light = [0.0] * args["colors"].shape[2], 1.0
    for g in ids[starts[tile] : [*starts, len(ids)][tile + 1]]:
        (u, v), (a, b, c) = (args[name].flatten(0, 1)[g].tolist() for name in ("means2d", "conics"))
        dx, dy = u - (x + 0.5), v - (y + 0.5)
        distance = (a * dx * dx + c * dy * dy) / 2 + b * dx * dy
        if distance < 0 or float(args["opacities"].flatten()[g]) * math.exp(-distance) < 1 / 255:
            continue
        alpha = min(0.999, float(args["opacities"].flatten()[g]) * math.exp(-distance))
        if light * (1 - alpha) <= 1e-4:
            break
        color = [known + alpha * light * own for known, own in zip(color, args["colors"].flatten(0, 1)[g].tolist(), strict=True)]
        light *= 1 - alpha
    return [*color, 1 - light]


@pytest.mark.parametrize("regime", [Regime.REALISTIC, Regime.SKEWED])
def test_blending_is_the_definition(regime):
    case, rng = drawn(1, regime), random.Random(0)
    for _ in range(300):
        camera, y, x = rng.randrange(2), rng.randrange(21), rng.randrange(35)
        found = torch.cat([case.expected[name][camera, y, x] for name in ("render_colors", "render_alphas")])
        assert found.tolist() == pytest.approx(blended(case.args, camera, y, x), rel=1e-9, abs=1e-12)


def test_no_pixel_is_near_a_bound():
    for seed in range(20):
        args = drawn(seed).args
        assert not bool(splats.undecided(args).any())
        for part in splats.parts(args):
            assert not bool(((part.opacity / splats.LEAST - 1).abs() < 2e-5).any())
            assert not bool(((part.left / splats.LEFT - 1).abs() < 2e-4).any())


def test_all_that_decides_occurs():
    parts = [part for seed in range(5) for part in splats.parts(drawn(seed).args)]
    opacity, left = (torch.cat([getattr(part, name).flatten() for part in parts]) for name in ("opacity", "left"))
    assert bool((opacity > splats.MOST).any())
    assert bool(((opacity > 0) & (opacity < splats.LEAST)).any())
    assert bool((left <= splats.LEFT).any())


def test_every_camera_of_every_draw_has_lists_of_the_same_lengths_and_gaussians_of_its_own():
    lengths = set()
    for seed in range(4):
        case = make_case(TASK, drawn(seed).workload, Regime.REALISTIC, seed, "cpu", shared_seed=7)
        starts, ids = case.args["isect_offsets"].flatten(), case.args["flatten_ids"]
        counts = torch.cat([starts, torch.tensor([len(ids)])]).diff().view(2, -1)
        lengths |= {tuple(own.sort().values.tolist()) for own in counts}
        assert torch.equal(ids // case.workload.sizes["N"], torch.arange(2).repeat_interleave(len(ids) // 2))
    assert len(lengths) == 1
    assert min(lengths)[0] == 0


def test_without_cameras_there_is_nothing():
    case = drawn(1, Regime.EMPTY)
    assert case.args["flatten_ids"].shape == (0,)
    assert list(splats.parts(case.args)) == []
