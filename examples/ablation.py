"""Ablation: the same policy, trained on the same budget under several rewards and two judges. What does it end up writing?

The policy is that of `train_grpo`, the task its finite grammar. An arm is a judge and a reward: under the judge `ours` a reward scores
the library's records, under `usual` those of a process that checks five random inputs of one shape and times a hundred calls. Whatever an
arm was trained on, its proposals are then looked up in the records of our judge: that is what a production system would get.

    python examples/ablation.py --out docs/measurements/ablation     # a few minutes on two cores; what is in that folder

Written: `README.md` and `index.html` (the findings), `summary.csv` (over seeds, with bootstrap intervals), `seeds.csv` (each
policy), `curves.csv`, `programs.csv` (what each arm pays for each program), `proposed.jsonl.xz` (some of the proposals, as a log).
Shares and means are exact: the policy's probability of every program is known, so nothing is sampled for them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import functools
import lzma
import math
import multiprocessing
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import ablation_page
import grammar
import msgspec
import numpy as np
import torch
import train_grpo
from ablation_page import SHARES, Arm, Study
from ablation_table import JUDGES, METRICS, Array, Table, interval_of, over_seeds
from train_grpo import Options

from fastkernels_env._terminal import Problem
from fastkernels_env.log import LogError, encode_record
from fastkernels_env.reward import PresetError, load_preset
from fastkernels_env.types import Evaluation

REWARDS = ("production", "gentle", "kevin", "kernrl", "cuda_agent", "drkernel", "log_speedup", "correct_only")
CURVES = (*SHARES, "production")


class Result(NamedTuple):
    """What training an arm gave."""

    arm: Arm
    steps: list[int]
    curves: dict[str, Array]
    """Each metric, float64 of shape [steps, seeds]; the last step is the end of training."""
    favourites: list[grammar.Program]
    """The most probable program at the end, by seed."""
    proposed: list[Evaluation]


@torch.no_grad()
def probabilities_of(policy: train_grpo.Policy, mask: torch.Tensor, seeds: int) -> Array:
    """The probability of every program, float64 of shape [seeds, programs]."""
    tokens = train_grpo.tokens_of(grammar.programs()).expand(seeds, -1, -1)
    logs = train_grpo.log_probabilities(policy, tokens, mask).double().sum(-1)
    return np.asarray(logs.exp().numpy())


def run_arm(arm: Arm, table: Table, options: Options, every: int, kept: int) -> Result:
    """Train an arm, all seeds at once."""
    torch.set_num_threads(1)
    policy, preset = train_grpo.make_policy(options), load_preset(arm.reward)
    probabilities = functools.partial(probabilities_of, policy, train_grpo.allowed(free=False), options.seeds)
    steps, measured = [0], [table.metrics(probabilities(), arm)]
    proposed: list[Evaluation] = []
    for step in train_grpo.train(policy, train_grpo.replay(table.logs[arm.judge]), preset, options):
        last = step.number == options.steps - 1
        if step.number % every == 0 or last:  # what was proposed before this step's update, as our judge sees it
            seen = [[table.logs["ours"][grammar.parse(record.context.episode)] for record in batch] for batch in step.records[:kept]]
            shown = step._replace(records=seen, rewards=step.rewards[:kept])
            proposed += train_grpo.proposals(shown, f"{arm.judge}, {arm.reward}", arm.reward, options.group_size)
        if (step.number + 1) % every == 0 or last:
            steps.append(step.number + 1)
            measured.append(table.metrics(probabilities(), arm))
    curves = {name: np.stack([found[name] for found in measured]) for name in METRICS}
    favourites = [grammar.programs()[index] for index in probabilities().argmax(1)]
    return Result(arm, steps, curves, favourites, [small(record) for record in proposed])


def small(record: Evaluation) -> Evaluation:
    """A record without what the grammar's own log holds already: source and samples."""
    timings = [msgspec.structs.replace(t, candidate_samples_us=[], baseline_samples_us={}, clocks={}) for t in record.timings]
    return msgspec.structs.replace(record, text="", code="", feedback="", timings=timings, versions={}, setup_us={}, containment=[])


def run_all(arms: Sequence[Arm], table: Table, options: Options, every: int, kept: int, workers: int) -> list[Result]:
    """Train every arm, some side by side; the results do not depend on how many."""
    train = functools.partial(run_arm, table=table, options=options, every=every, kept=kept)
    results = []
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(train, arms):
            results.append(result)
            ended = {name: over_seeds(result.curves[name][-1], name)[0] for name in METRICS}
            shares = ", ".join(f"{name} {ended[name]:.0%}" for name in SHARES if ended[name] > 0.005)
            print(f"{result.arm.judge:6}{result.arm.reward:13} ends with {shares}", file=sys.stderr, flush=True)
    return results


def write_csvs(out: Path, results: Sequence[Result], study: Study, table: Table) -> None:
    """All numbers, a line each."""
    write_csv(out / "summary.csv", ("judge", "reward", "metric", "value", "low", "high"), (
        (*arm, name, *ends[name]) for arm, ends in study.ends.items() for name in METRICS
    ))
    write_csv(out / "curves.csv", ("judge", "reward", "metric", "step", "value", "low", "high"), (
        (*arm, name, step, *ends)
        for arm, curves in study.curves.items() for name, found in curves.items() for step, ends in zip(study.steps, found, strict=True)
    ))
    write_csv(out / "seeds.csv", ("judge", "reward", "seed", *METRICS, "favourite", "favourite_outcome"), (
        (*result.arm, seed, *(result.curves[name][-1, seed] for name in METRICS), *favourite)
        for result in results for seed, favourite in enumerate(study.favourites[result.arm])
    ))
    paid = {f"{arm.reward} ({arm.judge})": table.paid(arm) for arm in study.ends}
    believed = {f"believed ({judge})": table.believed(judge) for judge in JUDGES}
    columns = {"speedup": table.speedup, "speedup_low": table.low, **believed, **paid}
    write_csv(out / "programs.csv", ("program", "outcome (ours)", "outcome (usual)", *columns), (
        (grammar.name_of(program), *(table.logs[judge][program].outcome.value for judge in JUDGES), *(c[index] for c in columns.values()))
        for index, program in enumerate(table.programs)
    ))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; numbers with six digits, what is not known empty."""
    def cell(value: object) -> object:
        return value if not isinstance(value, float) else "" if math.isnan(value) else f"{value:.6g}"

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *([cell(value) for value in row] for row in rows)])


def study_of(results: Sequence[Result], table: Table, options: Options, command: str) -> Study:
    """What the reports need, over seeds."""
    ends = {result.arm: {name: over_seeds(result.curves[name][-1], name) for name in METRICS} for result in results}
    curves = {result.arm: {name: [over_seeds(row, name) for row in result.curves[name]] for name in CURVES} for result in results}
    speeds = {result.arm: result.curves["speedup"][-1] for result in results}
    ours = speeds.pop(Arm("ours", "production"), None)
    return Study(
        ends=ends, steps=results[0].steps, curves=curves,
        against={} if ours is None else {arm: found for arm, speed in speeds.items() if (found := over_seeds(speed / ours))[0] > 0},
        favourites={result.arm: [table.told(program) for program in result.favourites] for result in results},
        dearest={result.arm: table.dearest(result.arm) for result in results},
        counts={judge: Counter(record.outcome.value for record in log.values()) for judge, log in table.logs.items()},
        seed=interval_of(table.seed), best=table.best(), seeds=options.seeds,
        proposals=options.steps * options.groups * options.group_size, baselines=table.baselines(),
        origin=table.origin(), command=command,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One policy, several rewards, two judges: what does it end up writing?")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page, the tables and the log")
    parser.add_argument("--rewards", default=",".join(REWARDS), help="presets, separated by commas")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--log", type=Path, default=grammar.LOG, help="the grammar as our judge sees it")
    parser.add_argument("--usual-log", type=Path, default=grammar.USUAL_LOG, help="the grammar as the usual method sees it")
    parser.add_argument("--workers", type=int, default=2, help="arms that train side by side")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Train all arms and write what was found."""
    table = Table(train_grpo.load(options.log), train_grpo.load(options.usual_log))
    arms = [Arm(judge, reward) for judge in JUDGES for reward in options.rewards.split(",")]
    for arm in arms:
        load_preset(arm.reward)  # a wrong name is an error before anything is trained
    training = Options(seeds=options.seeds, steps=options.steps)
    every = max(1, options.steps // 10)
    options.out.mkdir(parents=True, exist_ok=True)
    results = run_all(arms, table, training, every, kept=1, workers=options.workers)
    study = study_of(results, table, training, f"python examples/ablation.py {shlex.join(sys.argv[1:])}")
    write_csvs(options.out, results, study, table)
    lines = b"".join(encode_record(record) for result in results for record in result.proposed)
    (options.out / "proposed.jsonl.xz").write_bytes(lzma.compress(lines, preset=9))
    (options.out / "README.md").write_text(ablation_page.readme(study))
    (options.out / "index.html").write_text(ablation_page.html(study))
    print(ablation_page.text_table(study))
    print(f"\n{options.out / 'index.html'}")


def main() -> None:
    try:
        run(parse())
    except (Problem, PresetError, LogError) as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
