"""The tables of an ablation, as CSV files, and its records as Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .ablation import Ablation

Cell = str | int | float | None


class Table(NamedTuple):
    """A header, and rows of as many cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def presets_table(ablation: Ablation) -> Table:
    """Per preset: the moments of its rewards and what it makes of the groups."""
    header = (
        "preset", "count", "mean", "spread", "min", "max", "groups", "flat", "tied", "lottery", "decided", "flip", "contested", "misled",
    )
    rows = []
    for groups in ablation.group_summaries:
        rewards = ablation.rewards[groups.preset]
        rows.append((
            groups.preset, rewards.count, rewards.mean, rewards.spread, rewards.low, rewards.high, groups.groups, groups.flat, groups.tied,
            groups.lottery, groups.decided, groups.flip, groups.contested, groups.misled,
        ))
    return Table(header, rows)


def outcomes_table(ablation: Ablation) -> Table:
    """Per preset and grade: the rewards, and for unsound outcomes how many are paid too much."""
    verdicts = {(verdict.preset, verdict.outcome.value): verdict for verdict in ablation.verdicts}
    header = ("preset", "grade", "count", "mean", "spread", "min", "max", "at_least_parity", "above_parity", "above_loud")
    rows = []
    for grade in ablation.grades:
        verdict, found = verdicts.get((grade.preset, grade.grade.value)), grade.rewards
        counts = (verdict.at_least_parity, verdict.above_parity, verdict.above_loud) if verdict else (None, None, None)
        rows.append((grade.preset, grade.grade.value, found.count, found.mean, found.spread, found.low, found.high, *counts))
    return Table(header, rows)


def correlations_table(ablation: Ablation) -> Table:
    """Per pair of presets."""
    rows = [(pair.first, pair.second, pair.count, pair.spearman, pair.kendall) for pair in ablation.correlations]
    return Table(("first", "second", "count", "spearman", "kendall"), rows)


def groups_table(ablation: Ablation) -> Table:
    """Per group and preset."""
    header = (
        "task", "run", "policy_step", "group", "turn", "preset", "size", "mean", "spread", "lead", "best", "best_outcome", "flip", "misled",
    )
    rows = []
    for group in ablation.groups:
        key = group.key
        rows.append((
            key.task, key.run, key.policy_step, key.name, key.turn, group.preset, group.size, group.mean, group.spread, group.lead.value,
            group.best, group.best_outcome.value, group.flip, group.misled,
        ))
    return Table(header, rows)


def curves_table(ablation: Ablation) -> Table:
    """Per run, policy step and preset."""
    rows = [(p.run, p.policy_step, p.preset, p.count, p.mean, p.accepted, p.unsound) for p in ablation.curves]
    return Table(("run", "policy_step", "preset", "count", "mean", "accepted", "unsound"), rows)


def records_table(ablation: Ablation) -> Table:
    """Per record, with the total of each preset; empty for a fault."""
    header = (
        "id", "task", "run", "group", "episode", "turn", "policy_step", "outcome", "grade", "speedup_low", "speedup", "speedup_high",
        *(f"reward/{name}" for name in ablation.presets),
    )
    rows = []
    for one in ablation.samples:
        context, speed = one.context, one.speedup
        speeds = (speed.low, speed.estimate, speed.high) if speed else (None, None, None)
        totals = (one.prices[name].total if one.prices else None for name in ablation.presets)
        rows.append((
            one.id, one.task, context.run, context.group, context.episode, context.turn, context.policy_step, one.outcome.value,
            one.grade.value if one.grade else None, *speeds, *totals,
        ))
    return Table(header, rows)


TABLES: dict[str, Callable[[Ablation], Table]] = {
    "presets": presets_table, "outcomes": outcomes_table, "correlations": correlations_table, "groups": groups_table,
    "curves": curves_table, "records": records_table,
}
"""By name of the file, without ``.csv``."""


def write_tables(ablation: Ablation, folder: Path) -> list[Path]:
    """Write every table into a folder, which exists.

    Returns:
        The files; ``records.parquet`` is among them where pyarrow is installed.

    Raises:
        OSError: A file cannot be written.
    """
    paths = []
    for name, make in TABLES.items():
        table = make(ablation)
        paths.append(folder / f"{name}.csv")
        with paths[-1].open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.header)
            writer.writerows([_finite(cell) for cell in row] for row in table.rows)
    if parquet_installed():
        paths.append(folder / "records.parquet")
        _write_parquet(records_table(ablation), paths[-1])
    return paths


def parquet_installed() -> bool:
    """Whether Parquet files can be written."""
    return importlib.util.find_spec("pyarrow") is not None


def _write_parquet(table: Table, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    integers, columns = ("turn", "policy_step"), list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    arrays = {}
    for name, cells in zip(table.header, columns, strict=True):
        number = pyarrow.int64() if name in integers else pyarrow.float64()
        kind = number if name in integers or name.startswith(("speedup", "reward/")) else pyarrow.string()
        arrays[name] = pyarrow.array([_finite(cell) for cell in cells], kind)
    parquet.write_table(pyarrow.table(arrays), path)


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value
