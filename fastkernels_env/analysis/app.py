"""The commands ``fastkernels-env rescore`` and ``ablate``."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._arguments import load_reward
from .._terminal import ACCEPTED, NAME, Problem, display, make_table, tell, write

if TYPE_CHECKING:
    from ..reward import Preset
    from ..types import Evaluation, Reward
    from .ablation import Ablation
    from .rescoring import Rescored

LogArgument = Annotated[Path, typer.Argument(help="Log of evaluations: .jsonl, or .gz, .xz, .bz2 of it.", metavar="LOG")]
RewardOption = Annotated[str, typer.Option(help="Reward preset: a name, or a path to a TOML file.", metavar="PRESET")]


def rescore(
    log: LogArgument,
    reward: RewardOption = "production",
    out: Annotated[Path | None, typer.Option(help="File to write: a log with the new reward in each record, or a .csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Score every record of a log under a reward preset. No device is needed."""
    preset = load_reward(reward)
    if out is not None:
        _check_not_input(out, log)
    from .samples import ScoringError

    try:
        result = _rescore(log, preset, out)
    except ScoringError as error:
        raise Problem(str(error)) from error
    if out is not None:
        tell(f"{NAME}: wrote {out}: {result.count} record{'s' if result.count > 1 else ''}")
    _print_rescored(result, as_json)
    return ACCEPTED


def ablate(
    logs: Annotated[list[Path], typer.Argument(help="Logs of evaluations; .gz, .xz and .bz2 are read as they are.", metavar="LOG...")],
    rewards: Annotated[str, typer.Option(help="Presets to compare, by commas; the first is the reference.", metavar="PRESET,...")],
    out: Annotated[Path, typer.Option(help="Folder for index.html and the tables; made if missing.")],
) -> int:
    """Compare reward presets on the records of logs: a page and CSV files."""
    presets = [load_reward(name.strip()) for name in rewards.split(",") if name.strip()]
    _check_folder(out)
    from .ablation import ablate as compare
    from .page import ablation_page
    from .samples import ScoringError
    from .tables import parquet_installed, write_tables

    try:
        ablation = compare(itertools.chain.from_iterable(map(read, logs)), presets)
    except (ScoringError, ValueError) as error:
        raise Problem(str(error)) from error
    if not ablation.samples:
        raise Problem(f"{', '.join(map(str, logs))}: no record; name a log that evaluations were written to")
    try:
        write_tables(ablation, out)
        (out / "index.html").write_text(ablation_page(ablation, [log.name for log in logs]), "utf-8", "backslashreplace")
    except OSError as error:
        raise Problem(f"the results cannot be written to {out} ({error.strerror}); free space or name another folder") from error
    if not parquet_installed():
        tell(f"{NAME}: records.parquet was left out, pyarrow is not installed; install it: pip install 'fastkernels-env[plots]'")
    _print_ablation(ablation)
    write(f"{out / 'index.html'}\n")
    return ACCEPTED


def lines(log: Path) -> Iterator[tuple[bytes, Evaluation]]:
    """The records of a log with their lines. Torn lines are skipped and counted on standard error; a log that cannot be read ends it."""
    from ..log import LogError, iter_lines

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield from iter_lines(log, strict=False)
        except LogError as error:
            raise Problem(str(error)) from error
    for warning in caught:
        tell(f"{NAME}: {warning.message}")


def read(log: Path) -> Iterator[Evaluation]:
    """The records of a log. As `lines`."""
    return (record for _, record in lines(log))


def _rescore(log: Path, preset: Preset, out: Path | None) -> Rescored:
    from .rescored_files import replacing, write_csv, write_log
    from .rescoring import Tally
    from .samples import score

    def count(rewards: Iterable[tuple[Evaluation, Reward]]) -> Rescored:
        tally = Tally(preset.name)
        for record, reward in rewards:
            tally.add(record.outcome, reward)
        result = tally.result()
        if not result.count:
            raise Problem(f"{log} holds no record; name a log that evaluations were written to")
        return result

    if out is None:
        return count((record, score(preset, record)) for record in read(log))
    try:
        with replacing(out) as file:
            return count((write_csv if out.suffix == ".csv" else write_log)(lines(log), preset, file))
    except OSError as error:
        raise Problem(f"{out} cannot be written ({error.strerror}); name another file with --out") from error


def _check_not_input(out: Path, log: Path) -> None:
    if out.exists() and log.exists() and out.samefile(log) and log.is_file():
        raise Problem(f"{out} is the log that is read; name another file with --out")


def _check_folder(out: Path) -> None:
    """Make the folder before records are read for nothing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "index.html").touch()
    except OSError as error:
        raise Problem(f"the folder {out} cannot be written to ({error.strerror}); name another one with --out") from error


def _print_rescored(result: Rescored, as_json: bool) -> None:
    if as_json:
        from msgspec import to_builtins

        write(json.dumps(to_builtins(result), indent=2, allow_nan=False) + "\n")
        return
    rows = [(o.outcome.value, str(o.count), *_numbers(o.rewards.mean, o.rewards.low, o.rewards.high)) for o in result.outcomes]
    total = result.rewards
    rows.append(("all but faults", str(total.count), *_numbers(total.mean, total.low, total.high)))
    display(make_table(("outcome", "count", "mean", "min", "max"), rows))


def _print_ablation(ablation: Ablation) -> None:
    rows = []
    for summary in ablation.group_summaries:
        rewards = ablation.rewards[summary.preset]
        paid = [_of(v.at_least_parity, v.count) for v in ablation.verdicts if v.preset == summary.preset]
        rows.append((summary.preset, *_numbers(rewards.mean, rewards.spread), *_shares(summary.flat, summary.decided, summary.flip), *paid))
    display(make_table(("preset", "mean", "spread", "flat", "decided", "flips", "silent errors", "cheats", "conflicts"), rows))
    write("silent errors, cheats, conflicts: how many are paid no less than a right kernel as fast as the best baseline\n")
    if ablation.faults:
        tell(f"{NAME}: left out, since they have no reward: {ablation.faults} faults of the judge")


def _numbers(*values: float | None) -> Sequence[str]:
    return ["-" if value is None else f"{value:.3f}" for value in values]


def _shares(*values: float | None) -> Sequence[str]:
    return ["-" if value is None else f"{value:.0%}" for value in values]


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" if total else "-"
