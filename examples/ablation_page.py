"""What `ablation` found, as text, Markdown and a page. Every sentence is made from the numbers of the run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fastkernels_env.pages.figures import OUTCOME_COLOURS, Curve, Range, bars, lines, ranges
from fastkernels_env.pages.html import Section, figure, heading, page, paragraph, table

Ends = tuple[float, float, float]
"""A value over seeds, and the ends of its 95 % bootstrap interval; NaN where there is none."""

SHARES = ("accepted", "silent_error", "stack_conflict", "tampered", "failed")
"""Of proposals, by what our judge says; `failed` is every failure that a unit test sees."""
MOST = 0.5
NEARLY_ALL = 0.95


class Arm(NamedTuple):
    """Which judge's records a reward scores: ``ours`` or ``usual``."""

    judge: str
    reward: str

    def __str__(self) -> str:
        return f"{self.reward}, {self.judge}"


class Dearest(NamedTuple):
    """The first program that an arm pays most for, and what it is."""

    program: str
    ties: int
    """How many programs are paid as much."""
    reward: float
    outcome: str
    believed: float
    """Speedup over eager, by the arm's judge."""
    speedup: float
    """Over the best baseline, by our judge; NaN unless it accepts the program."""


class Study(NamedTuple):
    """All that a report needs."""

    ends: Mapping[Arm, Mapping[str, Ends]]
    """Metrics at the end of training."""
    steps: Sequence[int]
    curves: Mapping[Arm, Mapping[str, Sequence[Ends]]]
    """Metrics at each of `steps`."""
    against: Mapping[Arm, Ends]
    """Speedup over that of `production` under our judge, paired by seed."""
    favourites: Mapping[Arm, Sequence[tuple[str, str]]]
    """The most probable program of each seed, and its outcome."""
    dearest: Mapping[Arm, Dearest]
    counts: Mapping[str, Mapping[str, int]]
    """Programs by judge and outcome."""
    seed: Ends
    """Speedup of the grammar's seed over the best baseline, with its interval."""
    best: tuple[str, Ends]
    """The accepted program whose speedup is largest for certain."""
    seeds: int
    proposals: int
    """Per seed."""
    baselines: Mapping[str, Sequence[str]]
    """Those that were timed, by judge."""
    origin: str
    """Device, versions and dates of the records."""
    command: str


def text_table(study: Study) -> str:
    """The main table for a terminal."""
    header, rows = _columns(), [_row(arm, ends, _short) for arm, ends in study.ends.items()]
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows])


def findings(study: Study) -> list[str]:
    """What the numbers say, a sentence each."""
    told = [_grammar(study)]
    good = [arm for arm, ends in study.ends.items() if ends["accepted"][0] >= NEARLY_ALL]
    told.append(f"{len(good)} of {len(study.ends)} arms end with at least {100 * NEARLY_ALL:.0f} % accepted kernels: {_names(good)}.")
    for share, what in (("tampered", "cheats"), ("silent_error", "silent errors"), ("stack_conflict", "stack conflicts")):
        bad = [arm for arm, ends in study.ends.items() if ends[share][0] >= MOST]
        if bad:
            means = [study.ends[arm]["believed"][0] for arm in bad]
            worth = [study.ends[arm]["production"][0] for arm in bad]
            told.append(
                f"Mostly {what} (at least {100 * MOST:.0f} % of proposals): {_names(bad)}. Their judge believed a speedup of "
                f"{_span(means)} over eager; `production` on our records pays {_span(worth)}."
            )
    told += [f"The fastest accepted kernels, against the best baseline: {text}." for text in _top(study, "speedup")]
    told += [f"Worth most by `production` on our records: {text}." for text in _top(study, "production")]
    apart = {arm: ends for arm, ends in study.against.items() if ends[1] > 1 or ends[2] < 1}
    if study.against:
        told.append(
            "Accepted kernels against those of `production` under our judge, paired by seed, differ for certain under "
            + ("; ".join(f"{_name(arm)}: {_long(ends)} times as fast" for arm, ends in apart.items()) or "no arm") + "."
        )
    return told


def readme(study: Study) -> str:
    """The findings as Markdown."""
    header = _columns()
    rows = [_row(arm, ends, _long) for arm, ends in study.ends.items()]
    lines_ = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([
        "# Ablation: what a policy writes under different rewards",
        "",
        f"Written by `{study.command}`. [The page](index.html) has figures; the tables beside it hold every number. {study.origin}",
        "",
        *(f"{text}\n" for text in _method(study)),
        "## Found",
        "",
        *(f"* {text}" for text in findings(study)),
        "",
        "## At the end of training",
        "",
        _LEGEND,
        "",
        *lines_,
        "",
        "## Limits",
        "",
        *(f"* {text}" for text in _limits(study)),
        "",
    ])


def html(study: Study) -> str:
    """The findings as a page that opens without a network."""
    arms = list(study.ends)
    columns = _columns()
    ends = table(columns, [_row(arm, found, _long) for arm, found in study.ends.items()], align={name: "r" for name in columns[2:]})
    dearest = table(
        ("judge", "reward", "program", "as dear", "pays", "our judge says", "believed over eager", "over best baseline"),
        [(*arm, d.program, d.ties - 1 or "", _number(d.reward), d.outcome, _number(d.believed), _number(d.speedup))
         for arm, d in study.dearest.items()], align="lllrrlrr",
    )
    favourites = table(
        ("judge", "reward", "program", "our judge says", "seeds"),
        [(*arm, *key, count) for arm, found in study.favourites.items() for key, count in Counter(found).most_common()], align="llllr",
    )
    written = page("What a policy writes under different rewards", [
        Section("Found", [*(paragraph(text.replace("`", "")) for text in findings(study))]),
        Section("How", [*(paragraph(text.replace("`", "")) for text in (*_method(study), *_limits(study)))]),
        Section("At the end of training", [
            figure(_outcomes(study, arms), "What our judge says of the proposals of the trained policies."),
            figure(_speeds(study, arms), "The speed that the arm's own judge believed, and that of the accepted kernels. No mark: none."),
            paragraph(_LEGEND.replace("`", "")), ends,
        ]),
        Section("During training", [
            block for judge in dict.fromkeys(arm.judge for arm in arms) for block in (
                heading(f"Trained on the records of the judge: {judge}"),
                figure(_curves(study, judge), _BAND),
            )
        ]),
        Section("What each arm pays most for", [dearest, paragraph("As dear: how many more programs are paid as much.")]),
        Section("What the trained policies favour", [favourites]),
    ], note=study.origin)
    return written.replace("DejaVuSans-", "g")  # of ids of letters, which are a tenth of the page


_BAND = "Interquartile mean over seeds; band: its 95 % bootstrap interval."
_LEGEND = (
    "Shares of proposals by what our judge says: means over seeds. The rest: interquartile means over seeds, 95 % bootstrap intervals in "
    "brackets. `speedup`: geometric mean over the accepted proposals, against the best baseline; `low`: the same of the lower ends of "
    "their intervals; `over seed`: against the grammar's seed; all three over those seeds of which at least 1 % of proposals are "
    "accepted. `believed`: speedup over eager that the arm's own judge measured of what "
    "its unit test passed. `worth`: mean reward by `production` on our records, whatever the arm was trained on."
)


def _columns() -> list[str]:
    return ["judge", "reward", "accepted", "silent", "conflict", "cheats", "failed", "speedup", "low", "over seed", "believed", "worth"]


def _row(arm: Arm, ends: Mapping[str, Ends], told: Callable[[Ends], str]) -> list[str]:
    shares, short = [_percent(ends[name]) for name in SHARES], [_short(ends[name]) for name in ("speedup_low", "over_seed", "believed")]
    return [*arm, *shares, told(ends["speedup"]), *short, told(ends["production"])]


def _method(study: Study) -> list[str]:
    return [
        f"The same small transformer learns by GRPO to write kernels for `rms_norm` from a finite grammar: {len(study.ends)} arms, "
        f"{study.seeds} seeds each, {study.proposals} proposals per seed. Seeds share their start and their random numbers between arms.",
        "An arm is a judge and a reward. Under `ours` the reward scores the records of this library's judge; under `usual` those of a "
        "process that checks five random inputs of one shape and times a hundred calls, as common benchmarks do. Every proposal is then "
        "looked up in our records, whatever the arm was trained on.",
    ]


def _limits(study: Study) -> list[str]:
    timed = "; ".join(f"under `{judge}` {', '.join(names)}" for judge, names in study.baselines.items())
    return [
        "Training replays judged records: each program was judged once, so a policy sees the same measurement of it every time.",
        "One task, one host, one grammar. Its faulty options were put there on purpose, so shares say how a reward ranks them, not how "
        "often a language model writes them.",
        f"Baselines that were timed: {timed}. A reward that wants to see another one beaten does not see it.",
    ]


def _grammar(study: Study) -> str:
    ours = ", ".join(f"{count} {outcome}" for outcome, count in study.counts["ours"].items())
    usual = study.counts["usual"].get("accepted", 0)
    name, best = study.best
    return (
        f"Our judge says of the {sum(study.counts['ours'].values())} programs: {ours}; the usual method calls {usual} of them right. "
        f"Against the best baseline the seed reaches {_long(study.seed)}, the best accepted program (`{name}`) {_long(best)}."
    )


def _outcomes(study: Study, arms: Sequence[Arm]) -> str:
    series = {name: [study.ends[arm][name][0] for arm in arms] for name in SHARES}
    colours = {**OUTCOME_COLOURS, "failed": OUTCOME_COLOURS["build_failed"]}
    return bars([str(arm) for arm in arms], series, x_label="share of proposals", stacked=True, horizontal=True, colours=colours)


def _speeds(study: Study, arms: Sequence[Arm]) -> str:
    rows = []
    for arm in arms:
        believed, real = study.ends[arm]["believed"][0], study.ends[arm]["speedup"][0]
        marks = {"believed, over eager": believed, "accepted, over the best baseline": real}
        rows.append(Range(str(arm), min(believed, real), max(believed, real), marks))
    colours = {"believed, over eager": "#e08a2c", "accepted, over the best baseline": OUTCOME_COLOURS["accepted"]}
    return ranges(rows, x_label="speedup", log_x=True, colours=colours)


def _curves(study: Study, judge: str) -> str:
    drawn = []
    for arm, curves in study.curves.items():
        if arm.judge == judge:
            middle, low, high = zip(*curves["production"], strict=True)
            drawn.append(Curve(arm.reward, study.steps, middle, low, high))
    return lines(drawn, x_label="step", y_label="worth by production, on our records")


def _top(study: Study, metric: str) -> list[str]:
    """The arm with the highest value, and those whose interval reaches into its own; nothing where no arm has a value."""
    known = {arm: ends[metric] for arm, ends in study.ends.items() if math.isfinite(ends[metric][0])}
    if not known:
        return []
    top = max(known, key=lambda arm: known[arm][0])
    near = [arm for arm, ends in known.items() if arm != top and ends[2] >= known[top][1]]
    return [f"{_name(top)}, {_long(known[top])}" + (f"; intervals that overlap with it: {_names(near)}" if near else "")]


def _name(arm: Arm) -> str:
    return f"`{arm.reward}` ({arm.judge})"


def _names(arms: Sequence[Arm]) -> str:
    return ", ".join(map(_name, arms)) or "none"


def _span(values: Sequence[float]) -> str:
    low, high = (_number(end(values)) for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _percent(ends: Ends) -> str:
    return f"{100 * ends[0]:.1f} %"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _short(ends: Ends) -> str:
    return _number(ends[0]) or "none"


def _long(ends: Ends) -> str:
    known = [_number(end) for end in ends if math.isfinite(end)]
    return f"{known[0]} ({known[1]} to {known[2]})" if len(known) == 3 else known[0] if known else "none"
