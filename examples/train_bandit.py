"""A bandit learns to write fast and right kernels: one choice for each slot of `grammar`, by REINFORCE with group-relative advantages.

Judging is slow and the grammar is finite, so every program was judged once and training replays that log; ``--live`` judges for real.
A policy is a categorical distribution for each slot, independent of each other; several policies (seeds) learn side by side.
The advantage of a program is its reward less its group's mean, over the group's deviation (GRPO, arXiv 2402.03300). Programs without
a reward (a fault of the judge, or not in the log) are left out of their group.

    python examples/train_bandit.py                                        replay, seconds
    python examples/train_bandit.py --reward kevin --log examples/data/grammar-usual.jsonl.xz
    python examples/train_bandit.py --plot curve.svg                       needs the extra `plots`
    python examples/train_bandit.py --live 3                               judges 3 groups of 8 programs, minutes

It prints what the policies are worth after every tenth of the steps (mean over seeds, lowest and highest), then start and end with an
interval over seeds, the program that most policies end with beside the task's seed, and the outcomes of what they propose at the end.

Expected output, in four seconds on two cores (lines left out, long ones cut here):

    replay of 144 judged programs under 'production': 10 seeds, groups of 16
      step    0  reward -0.229 (-0.229 to -0.229)  accepted  21%
      step   20  reward +0.544 (+0.459 to +0.630)  accepted  61%
      step  100  reward +1.342 (+1.320 to +1.358)  accepted  98%
      step  200  reward +1.396 (+1.394 to +1.397)  accepted 100%
    start -0.229, end +1.396, so +1.625: 95 % interval +1.624 to +1.625
    what 10 of 10 policies propose most at the end:
      simd|dynamic|float|stream        accepted       2.13 times the baseline's speed, 95 % interval 1.96 to 2.29
    the task's seed:
      simd|parallel|float|store        accepted       1.97 times the baseline's speed, 95 % interval 1.73 to 2.22
    outcomes proposed at the end: 99.7% accepted, 0.2% silent_error, 0.1% build_failed

The intervals of the two programs overlap. Judged in turn, ten times each (`grammar.py compare --effort full`), the first is 1.06 times as
fast as the seed: 95 % interval 1.03 to 1.11.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grammar
import torch
from torch import Tensor

from fastkernels_env.log import LogError
from fastkernels_env.reward import Preset, PresetError, load_preset
from fastkernels_env.types import Evaluation, Outcome

Judge = Callable[[Tensor], Tensor]
"""Rewards ``[seeds, group]`` of choices ``[seeds, group, slots]``; NaN where there is none."""

PROGRAMS = grammar.programs()
SIZES = [len(options) for options in grammar.CHOICES.values()]
RESAMPLES = 10_000
_TOLD = 5e-4
"""Share of an outcome from which on it is printed."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings, each one an argument of the command line."""

    reward: str = "production"
    log: Path = grammar.LOG
    seeds: int = 10
    steps: int = 200
    group: int = 16
    learning_rate: float = 0.05
    entropy: float = 0.01
    seed: int = 0
    plot: Path | None = None
    live: int | None = None
    live_group: int = 8
    effort: str = "quick"


class Policy(torch.nn.Module):
    """Independent categorical choices, uniform at first: for each slot logits ``[seeds, options]``."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.slots = torch.nn.ParameterList(torch.zeros(seeds, size) for size in SIZES)

    def draw(self, group: int, generator: torch.Generator) -> Tensor:
        """A group of programs for each seed, as indices of options ``[seeds, group, slots]``."""
        drawn = [torch.multinomial(logits.softmax(-1), group, replacement=True, generator=generator) for logits in self.slots]
        return torch.stack(drawn, -1)

    def log_probability(self, choices: Tensor) -> Tensor:
        """Of each program ``[seeds, group]``."""
        by_slot = zip(self.slots, choices.unbind(-1), strict=True)
        return torch.stack([logits.log_softmax(-1).gather(1, chosen) for logits, chosen in by_slot]).sum(0)

    def entropy(self) -> Tensor:
        """Of each seed's policy, in nats ``[seeds]``."""
        return torch.stack([-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1) for logits in self.slots]).sum(0)

    def shares(self) -> Tensor:
        """Probability of every program of the grammar ``[seeds, programs]``."""
        with torch.no_grad():
            everything = torch.tensor(list(itertools.product(*map(range, SIZES)))).expand(len(self.slots[0]), -1, -1)
            return self.log_probability(everything).exp()


class Curve(NamedTuple):
    """What a policy is worth after a number of steps, exactly: summed over all programs of the log, not estimated from draws.

    Attributes:
        step: Steps so far.
        reward: Expected reward by seed ``[seeds]``.
        accepted: Probability that a program is accepted, by seed ``[seeds]``.
    """

    step: int
    reward: Tensor
    accepted: Tensor


def advantages(rewards: Tensor) -> Tensor:
    """Rewards ``[seeds, group]`` less their group's mean, over its deviation; 0 where there is no reward, or no difference."""
    rewards = rewards.double()  # equal rewards differ from their mean by rounding, which must stay far below the 1e-6
    difference = (rewards - rewards.nanmean(1, keepdim=True)).nan_to_num(0.0)
    known = rewards.isfinite().sum(1, keepdim=True).clamp_min(1)
    return difference / ((difference.square().sum(1, keepdim=True) / known).sqrt() + 1e-6)


def train(policy: Policy, judge: Judge, options: Options, steps: int, group: int) -> Iterator[int]:
    """Draw a group, have it judged, make what was above its mean more likely; yields the number of steps so far."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)
    for step in range(1, steps + 1):
        choices = policy.draw(group, generator)
        gain = (advantages(judge(choices)).float() * policy.log_probability(choices)).mean(1) + options.entropy * policy.entropy()
        optimiser.zero_grad()
        loss = -gain.sum()  # over seeds: each has parameters of its own
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield step


class Replay:
    """Rewards out of a log, and what was asked for."""

    def __init__(self, records: dict[grammar.Program, Evaluation], preset: Preset) -> None:
        totals = [preset.score(records[program]).total if program in records else None for program in PROGRAMS]
        self.rewards = torch.tensor([float("nan") if total is None else total for total in totals])
        self.accepted = torch.tensor([program in records and records[program].outcome is Outcome.ACCEPTED for program in PROGRAMS])
        self.asked = torch.zeros(len(PROGRAMS), dtype=torch.bool)

    def __call__(self, choices: Tensor) -> Tensor:
        """See `Judge`."""
        index = torch.zeros(choices.shape[:-1], dtype=torch.long)
        for size, chosen in zip(SIZES, choices.unbind(-1), strict=True):
            index = index * size + chosen
        self.asked[index.flatten()] = True
        return self.rewards[index]

    def worth(self, policy: Policy, step: int) -> Curve:
        """What the policies are worth."""
        known = policy.shares() * self.rewards.isfinite()
        known = known / known.sum(1, keepdim=True)
        return Curve(step, known @ self.rewards.nan_to_num(0.0), known @ self.accepted.float())


def interval(values: Tensor, seed: int) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean over seeds (percentiles, Efron 1979)."""
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def replay(records: dict[grammar.Program, Evaluation], preset: Preset, options: Options) -> list[Curve]:
    """Train by replay and print what came of it."""
    policy, judge = Policy(options.seeds), Replay(records, preset)
    print(f"replay of {len(records)} judged programs under {preset.name!r}: {options.seeds} seeds, groups of {options.group}")
    curves = [judge.worth(policy, 0)]
    show(curves[0])
    for step in train(policy, judge, options, options.steps, options.group):
        curves.append(judge.worth(policy, step))
        if step % max(options.steps // 10, 1) == 0:
            show(curves[-1])
    summarise(records, judge, policy, curves, options)
    return curves


def show(curve: Curve) -> None:
    low, high = curve.reward.aminmax()
    print(f"  step {curve.step:4}  reward {curve.reward.mean():+.3f} ({low:+.3f} to {high:+.3f})  accepted {curve.accepted.mean():4.0%}")


def summarise(
    records: dict[grammar.Program, Evaluation], judge: Replay, policy: Policy, curves: list[Curve], options: Options
) -> None:
    start, end = curves[0].reward, curves[-1].reward
    low, high = interval(end - start, options.seed)
    print(f"start {start.mean():+.3f}, end {end.mean():+.3f}, so {(end - start).mean():+.3f}: 95 % interval {low:+.3f} to {high:+.3f}")
    proposed, count = Counter(policy.shares().argmax(1).tolist()).most_common(1)[0]
    tried = judge.asked & judge.rewards.isfinite()
    best = int(judge.rewards.where(tried, torch.tensor(float("-inf"))).argmax())
    for what, program in (
        (f"what {count} of {options.seeds} policies propose most at the end", PROGRAMS[proposed]),
        (f"the best of {int(tried.sum())} programs that were tried", PROGRAMS[best]),
        ("the task's seed", grammar.SEED),
    ):
        told = grammar.describe(program, records[program]) if program in records else f"{grammar.name_of(program)}, which was not judged"
        print(f"{what}:\n  {told}")
    shares = Counter[str]()
    for program, share in zip(PROGRAMS, policy.shares().mean(0).tolist(), strict=True):
        shares[records[program].outcome.value if program in records else "not judged"] += share
    told = (f"{share:.1%} {outcome}" for outcome, share in shares.most_common() if share >= _TOLD)
    print("outcomes proposed at the end: " + ", ".join(told))


def live(preset: Preset, options: Options) -> None:
    """A few steps of one policy from the start, in which every program is really judged."""
    from fastkernels_env import Evaluator

    print(f"live under {preset.name!r}: {options.live} steps, groups of {options.live_group}")
    with Evaluator("cpu", effort=options.effort, judges=2) as evaluator:

        def judge(choices: Tensor) -> Tensor:
            programs = [tuple(map(tuple.__getitem__, grammar.CHOICES.values(), chosen)) for chosen in choices[0].tolist()]
            asked = [evaluator.submit(grammar.TASK, grammar.reply(program)) for program in programs]
            records = [future.result() for future in asked]
            rewards = [preset.score(record).total for record in records]
            for program, record, reward in zip(programs, records, rewards, strict=True):
                print(f"    {grammar.name_of(program):32} {record.outcome.value:14} {'none' if reward is None else f'{reward:+.3f}'}")
            return torch.tensor([[float("nan") if reward is None else reward for reward in rewards]])

        policy = Policy(1)
        for step in train(policy, judge, options, options.live or 0, options.live_group):
            print(f"  step {step}: entropy {policy.entropy().item():.2f} nats", flush=True)


def plot(curves: list[Curve], title: str, path: Path) -> None:
    """Save the learning curve: mean over seeds, and from the lowest to the highest."""
    from matplotlib.figure import Figure

    steps, rewards = [curve.step for curve in curves], torch.stack([curve.reward for curve in curves])
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(steps, rewards.amin(1), rewards.amax(1), alpha=0.25, label="lowest to highest seed")
    axes.plot(steps, rewards.mean(1), label="mean over seeds")
    axes.set(xlabel="step", ylabel="expected reward", title=title)
    axes.legend()
    figure.savefig(path)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="A bandit over a grammar of kernels.")
    parser.add_argument("--reward", help="preset, by name or file")
    parser.add_argument("--log", type=Path, help="judged programs to replay")
    parser.add_argument("--seeds", type=_count, help="policies that learn side by side")
    parser.add_argument("--steps", type=_count)
    parser.add_argument("--group", type=_count, help="programs that a policy draws in a step")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--entropy", type=float, help="reward for a nat of entropy")
    parser.add_argument("--seed", type=int, help="of all draws: the same one gives the same run")
    parser.add_argument("--plot", type=Path, help="file for the learning curve, .svg or .png")
    parser.add_argument("--live", type=_count, metavar="STEPS", help="judge really, for so many steps, instead of replay")
    parser.add_argument("--live-group", type=_count, help="programs in a step of a live run")
    parser.add_argument("--effort", choices=("quick", "full"), help="of the live judge")
    parser.set_defaults(**dataclasses.asdict(Options()))
    options = Options(**vars(parser.parse_args()))

    try:
        preset = load_preset(options.reward)
        records = {} if options.live else grammar.load(options.log)
    except (PresetError, LogError) as error:
        parser.error(str(error))
    if options.live:
        live(preset, options)
        return
    if not records:
        parser.error(f"expected a log of the grammar's programs, {options.log} holds none; make one with grammar.py judge")
    curves = replay(records, preset, options)
    if options.plot:
        plot(curves, f"{preset.name}: {options.seeds} seeds, replay", options.plot)
        print(f"learning curve in {options.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()
