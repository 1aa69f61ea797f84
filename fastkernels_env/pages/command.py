"""The command ``fastkernels-env report``: a log in, a page out. Imports no torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import load_reward
from .._terminal import ACCEPTED, NAME, Problem, tell, write

if TYPE_CHECKING:
    from .run_summary import RunSummary

LogArgument = Annotated[Path, typer.Argument(help="Log of evaluations: JSONL, plain or compressed.", metavar="LOG")]
OutOption = Annotated[Path | None, typer.Option(help="HTML file to write; beside the log without it.")]


def report(
    log: LogArgument,
    run: Annotated[str | None, typer.Option(help="Only evaluations of this run; all without it.")] = None,
    out: OutOption = None,
    reward: Annotated[str, typer.Option(help="Reward preset that scores the records: a name, or a path to a TOML file.")] = "production",
) -> int:
    """Write one page about a log: timeline, rooflines, verification, best kernels. Prints the page's path."""
    scorer = load_reward(reward)
    target = out or page_path(log)
    if target.exists() and log.exists() and target.samefile(log):
        raise Problem(f"the page would overwrite the log {log}; name another file with --out")
    from .report_page import report_page
    from .run_summary import RunSummary

    summary = RunSummary(scorer)
    note = _read(log, run, summary)
    title = f"Run {run}" if run else f"Evaluations in {log.name}"
    text = report_page(summary, title, scorer.name, note)
    write_page(target, text)
    write(f"{target}\n")
    return ACCEPTED


def page_path(log: Path) -> Path:
    """The file beside a log that its page goes to: its name without the endings of a log."""
    name = log.name
    for ending in (".gz", ".xz", ".bz2", ".jsonl"):
        name = name.removesuffix(ending)
    return log.with_name(f"{name or 'report'}.html")


def write_page(path: Path, text: str) -> None:
    """Write a page; its folder is made.

    Raises:
        Problem: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Problem(f"the page {path} cannot be written ({error.strerror or error}); name another file with --out") from error


def _read(log: Path, run: str | None, summary: RunSummary) -> str:
    """Take the records of a run in; returns what has to be said about lines that could not be read."""
    from ..log import LogError, iter_log
    from ..reward import TermError

    others: dict[str, None] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for evaluation in iter_log(log, strict=False):
                if run is None or evaluation.context.run == run:
                    summary.add(evaluation)
                else:
                    others[evaluation.context.run] = None
        except (LogError, TermError) as error:
            raise Problem(str(error)) from error
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        tell(f"{NAME}: {note}")
    if not summary.rows:
        known = f"; runs in it: {', '.join(name or '(without a name)' for name in others)}" if others else ""
        raise Problem(f"{log} holds no evaluation{f' of the run {run!r}' if run is not None else ''}{known}")
    return "; ".join(notes)
