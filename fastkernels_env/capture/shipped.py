"""The CUDA rows of the shipped tasks, captured anew: ``make workloads``.

`shipped.toml` beside this module says which model and traffic every row is from. Each is captured from the model's configuration and
compared with the row: sizes, parameters of its inputs, dtype and count.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import msgspec

from ..registry import task_folders
from ..statements import Workload, read_workloads
from . import facts, models, situations
from .observation import Observation
from .ops import Layout
from .rows import Group, encode, groups


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a row is from; see `shipped.toml`."""

    model: str
    workload: str
    part: str = ""
    ranks: int = 1
    sequence: bool = False
    experts: int = 1
    steps: int = 0
    kept: str = ""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A shipped row beside what the capture says.

    Attributes:
        row: As shipped.
        captured: The row anew, which names model, revision and workload.
        differences: One phrase each; empty if the rows mean the same.
        kept: Why the shipped row stays as it is all the same.
    """

    task: str
    row: Workload
    captured: Workload
    differences: tuple[str, ...]
    kept: str

    @property
    def settled(self) -> bool:
        """Whether the row is what the capture says, or says why it is not."""
        return bool(self.kept) == bool(self.differences)


def entries() -> dict[str, dict[str, Entry]]:
    """`shipped.toml`: by task, then by row."""
    text = resources.files(__package__).joinpath("shipped.toml").read_text()
    return msgspec.convert(tomllib.loads(text), dict[str, dict[str, Entry]])


def compare(tasks: Iterable[str] = ()) -> list[Compared]:
    """Capture the rows of tasks (of all without any) and compare.

    Raises:
        LookupError: A shipped CUDA row is not in `shipped.toml`, or nothing of the kind is seen in its model.
        ModelsMissing: `transformers` is not installed.
    """
    known = entries()
    compared = []
    for task in tasks or known:
        if task not in known:
            raise LookupError(f"shipped.toml has no task {task!r}; it has {', '.join(known)}")
        for row in shipped_rows(task):
            if row.name not in known[task]:
                raise LookupError(f"shipped.toml does not say where row {row.name!r} of {task!r} is from; add it")
            compared.append(_compare(task, row, known[task][row.name]))
    return compared


def shipped_rows(task: str) -> list[Workload]:
    """The public CUDA rows of a task."""
    rows = read_workloads(task_folders()[task] / "workloads.jsonl", task)
    return [row for row in rows if row.device == "cuda" and not row.overflow]


def _compare(task: str, row: Workload, entry: Entry) -> Compared:
    situation = situations.shipped()[entry.workload]
    [batch] = situation.batches()
    layout = Layout(entry.ranks, entry.sequence, entry.experts)
    seen = groups(_record(entry.model, entry.ranks, entry.workload, row.dtype), layout)
    group = _choose([g for g in seen if g.task == task and (not entry.part or g.part == entry.part)], row, task)
    [(size, calls)] = group.calls.items()
    matched = group.matches[size]
    count = calls // batch.steps * (entry.steps or batch.steps)
    captured = msgspec.structs.replace(
        row, dtype=matched.dtype, sizes=matched.sizes, params=matched.params, count=count, model=entry.model,
        revision=facts.shipped()[entry.model].revision, workload=entry.workload,
    )
    return Compared(task=task, row=row, captured=captured, differences=tuple(_differences(row, captured)), kept=entry.kept)


@lru_cache(maxsize=8)
def _record(model: str, ranks: int, workload: str, dtype: str) -> Sequence[Observation]:
    batches = situations.shipped()[workload].batches()
    return models.record(facts.shipped()[model].sharded(ranks), batches, dtype)


def _choose(seen: Sequence[Group], row: Workload, task: str) -> Group:
    """The op that a row means: the one with the most of its sizes."""
    if not seen:
        raise LookupError(f"row {row.name!r} of {task!r}: its model runs nothing that the task mirrors; mend its entry in shipped.toml")

    def alike(group: Group) -> int:
        [matched] = group.matches.values()
        return sum(matched.sizes.get(name) == size for name, size in row.sizes.items()) - len(set(matched.sizes) - set(row.sizes))

    return max(seen, key=alike)


def _differences(row: Workload, captured: Workload) -> Iterable[str]:
    if row.dtype != captured.dtype:
        yield f"dtype {row.dtype}, captured {captured.dtype}"
    if row.count != captured.count:
        yield f"count {row.count:,}, captured {captured.count:,}"
    for mine, anew in ((row.sizes, captured.sizes), (row.params, captured.params)):
        for name in dict.fromkeys((*mine, *anew)):
            if mine.get(name) != anew.get(name):
                yield f"{name} {mine.get(name, 'none')}, captured {anew.get(name, 'none')}"


def write(compared: Iterable[Compared], folder: Path | None) -> list[Path]:
    """Write the rows of every task, with model, revision and workload.

    Args:
        compared: What to write. A row that differs for a reason that is stated keeps its sizes and its count.
        folder: For files ``TASK.jsonl`` with the captured rows alone; None: into the tasks' own ``workloads.jsonl``, whose other lines
            stay.
    """
    written = []
    by_task: dict[str, list[Compared]] = {}
    for entry in compared:
        by_task.setdefault(entry.task, []).append(entry)
    for task, found in by_task.items():
        if folder is not None:
            path, text = folder / f"{task}.jsonl", "".join(f"{encode(entry.captured)}\n" for entry in found)
        else:
            path = task_folders()[task] / "workloads.jsonl"
            anew = {entry.row.name: _named(entry) for entry in found}
            lines = [line for line in path.read_text().splitlines() if line.strip()]
            text = "".join(f"{_replace(line, anew)}\n" for line in lines)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


def _named(entry: Compared) -> dict[str, object]:
    captured = entry.captured
    changed = {} if entry.differences == () or entry.kept else {
        "dtype": captured.dtype, "sizes": captured.sizes, "count": captured.count, "params": captured.params,
    }
    return changed | {"model": captured.model, "revision": captured.revision, "workload": captured.workload}


def _replace(line: str, anew: dict[str, dict[str, object]]) -> str:
    values = json.loads(line)
    changes = anew.get(values["name"], {}) if values["device"] == "cuda" else {}
    return json.dumps(values | changes) if changes else line


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: exit status 1 if a row is not what the capture says and does not say why, 2 if it cannot be captured."""
    parser = argparse.ArgumentParser(prog="make workloads", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", help="names of tasks; all without any")
    parser.add_argument("--out", type=Path, default=Path("build/workloads"), help="folder for the captured rows")
    parser.add_argument("--write", action="store_true", help="change the tasks' own files instead")
    options = parser.parse_args(arguments)
    try:
        compared = compare(options.tasks)
    except (LookupError, models.ModelsMissing, facts.FactsError) as error:
        print(error, file=sys.stderr)
        return 2
    for entry in compared:
        verdict = "; ".join(entry.differences) or "identical"
        print(f"{entry.task} {entry.row.name}: {verdict}" + (f" (kept: {entry.kept})" if entry.kept else ""))
    for path in write(compared, None if options.write else options.out):
        print(f"wrote {path}")
    same = sum(not entry.differences for entry in compared)
    print(f"{same} of {len(compared)} rows identical, {sum(bool(e.differences) and e.settled for e in compared)} kept for a stated reason")
    return 0 if all(entry.settled for entry in compared) else 1


if __name__ == "__main__":
    sys.exit(main())
