"""The command ``fastkernels-env coverage``."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._terminal import ACCEPTED, NAME, Problem, display, make_table, tell, write

if TYPE_CHECKING:
    from .measured import Measured
    from .summary import Summary

SHOWN = 25


def coverage(
    architecture: Annotated[list[str] | None, typer.Option(help="Only this one, in detail; may be repeated.", metavar="NAME")] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file of results, a line each; those that it holds are not made again.")] = None,
    again: Annotated[Path | None, typer.Option(help="Sum up the file of an earlier walk for the tasks of today.", metavar="FILE")] = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that an architecture may take.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say how many architectures of the installed transformers the tasks cover, and what to add next. No device is needed."""
    from ..registry import task_folders
    from .summary import summarise

    tasks = set(task_folders())
    results = _walked(architecture or [], out, limit, tasks) if again is None else _read(again, architecture or [])
    summary = summarise(results, tasks)
    if as_json:
        _print_json(results, summary, bool(architecture))
    elif architecture:
        for measured in results:
            _print_detail(measured, tasks)
    else:
        _print_summary(summary)
    return ACCEPTED


def _walked(names: list[str], out: Path | None, limit: float, tasks: set[str]) -> list[Measured]:
    if importlib.util.find_spec("transformers") is None:
        raise Problem("coverage needs transformers; install it: pip install 'fastkernels-env[models]'")
    from .architectures import architectures
    from .walk import walk

    known = architectures()
    by_name = {a.name: a for a in known} | {a.model_type: a for a in known}
    chosen = [by_name[name] for name in _known(names, by_name)] or known
    done = _done(out)
    with _lines(out) as save:
        for measured in done.values():
            save(measured, tasks)
        for measured in walk([a for a in chosen if a.name not in done], limit, _progress):
            done[measured.name] = measured
            save(measured, tasks)
    _progress("")
    return [done[a.name] for a in chosen]


def _done(out: Path | None) -> dict[str, Measured]:
    """What a file has of an earlier walk with the same transformers; architectures with a problem are tried again."""
    if out is None or not out.exists():
        return {}
    from importlib import metadata

    version = metadata.version("transformers")
    return {m.name: m for m in _decoded(out) if m.transformers == version and not m.problem}


def _read(file: Path, names: list[str]) -> list[Measured]:
    results = _decoded(file)
    by_name = {m.name: m for m in results}
    return [by_name[name] for name in _known(names, by_name)] or results


def _decoded(file: Path) -> list[Measured]:
    import msgspec

    from .measured import Measured

    try:
        return [msgspec.json.decode(line, type=Measured) for line in file.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise Problem(f"{file} cannot be read ({error}); name a file that --out of this command wrote") from error


def _known(names: list[str], known: Collection[str]) -> list[str]:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "names are those of the folders of transformers.models"
            raise Problem(f"there is no architecture {name!r}; {hint}")
    return names


def _progress(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


@contextlib.contextmanager
def _lines(out: Path | None) -> Iterator[Callable[[Measured, set[str]], None]]:
    """What writes a line per architecture as soon as it is known."""
    if out is None:
        yield lambda measured, tasks: None
        return
    import msgspec

    from .summary import covered_share, is_covered

    try:
        with out.open("w") as file:

            def save(measured: Measured, tasks: set[str]) -> None:
                verdict = {"covered": is_covered(measured, tasks), "covered_share": round(covered_share(measured, tasks), 4)}
                file.write(json.dumps({**msgspec.to_builtins(measured), **verdict}) + "\n")
                file.flush()

            yield save
    except OSError as error:
        raise Problem(f"{out} cannot be written ({error.strerror}); name another file with --out") from error
    tell(f"{NAME}: wrote {out}")


def _print_json(results: list[Measured], summary: Summary, detailed: bool) -> None:
    import msgspec

    what = {"architectures": msgspec.to_builtins(results)} if detailed else {}
    write(json.dumps({**msgspec.to_builtins(summary), **what}, indent=2) + "\n")


def _print_summary(summary: Summary) -> None:
    tallies = (*summary.categories, summary.all)
    rows = [(t.category, str(t.covered), str(t.total), _share(t.covered, t.total), str(t.failed)) for t in tallies]
    display(make_table(("category", "covered", "of", "share", "not run"), rows))
    write("\nMissing, by share of the modelled time (mean over the architectures that ran):\n")
    missing = [(m.task, f"{m.share:.2%}", str(m.architectures), str(m.decides), ", ".join(m.ops[:6])) for m in summary.missing[:SHOWN]]
    display(make_table(("task", "share", "architectures", "alone covers", "operators"), missing))
    write("\nBest added in this order:\n")
    order = [(str(i), task, f"{done} of {summary.all.total}") for i, (task, done) in enumerate(summary.order[:SHOWN], 1)]
    display(make_table(("", "task", "covered then"), order))


def _print_detail(measured: Measured, tasks: set[str]) -> None:
    from .summary import covered_share, is_covered

    verdict = "covered" if is_covered(measured, tasks) else "not covered"
    what = f"{measured.name} ({measured.model_class or measured.model_type}, {measured.category})"
    write(f"{what}: {verdict}, {covered_share(measured, tasks):.1%} of the modelled time\n")
    if measured.problem:
        write(f"not all of it ran: {measured.problem}\n")
    for step in measured.steps:
        write(f"{step.name} x {step.count}: {step.seconds:.3g} s\n")
    total = sum(measured.seconds.values())
    rows = [
        (task, "yes" if task in tasks else "", f"{1e3 * spent:.3g}", f"{spent / total:.2%}", ", ".join(measured.ops.get(task, ())[:8]))
        for task, spent in measured.seconds.items()
    ]
    display(make_table(("task", "exists", "ms", "share", "operators"), rows))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
