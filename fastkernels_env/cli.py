"""The command line: ``fastkernels-env``, or ``python -m fastkernels_env``.

Results go to standard output, everything else to standard error. Exit status: 0 accepted (or done), 1 any other outcome, 2
unusable arguments, 3 a fault that is not the submission's; 128 plus the signal's number if interrupted. Whatever needs torch is
imported inside the commands, so that help and bad arguments answer at once.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ._arguments import check_log, check_task, default_tasks, load, load_reward, name_with_workloads, read_text, resolve_device
from ._terminal import (
    ACCEPTED,
    BROKEN_PIPE,
    FAULT,
    NAME,
    OTHER,
    UNUSABLE,
    Problem,
    ReaderGone,
    StatusLine,
    display,
    make_console,
    tell,
    write,
)
from .analysis.app import ablate, rescore
from .bench.app import app as bench
from .capture.command import capture
from .coverage.app import coverage
from .fleet.app import app as fleet
from .pages.command import report
from .play import play

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .evaluator import Evaluator
    from .reward import Preset
    from .types import Evaluation, Reward

_ClickError: type[Exception] = typer.BadParameter.__mro__[2]  # typer brings its own click, or uses the installed one

app = typer.Typer(
    name=NAME, add_completion=False, pretty_exceptions_enable=False,
    help="Kernel source in, production worth out: judge GPU and CPU kernels, and say why.",
    epilog="Exit status: 0 accepted, 1 any other outcome, 2 unusable arguments, 3 a fault that is not the submission's.",
)
app.add_typer(bench, name="bench")
app.add_typer(fleet, name="fleet")
app.command()(report)
app.command()(play)
app.command()(rescore)
app.command()(ablate)
app.command()(coverage)
app.command()(capture)


class Device(enum.StrEnum):
    """Devices to choose from."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Effort(enum.StrEnum):
    """How much an evaluation does."""

    QUICK = "quick"
    FULL = "full"


DeviceOption = Annotated[Device, typer.Option(help="Device to judge on; auto takes the GPU if there is one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StrictOption = Annotated[
    bool | None,
    typer.Option("--strict/--no-strict", help="Refuse to run where a layer of containment is missing. Default: FASTKERNELS_STRICT."),
]
TaskArgument = Annotated[str, typer.Argument(help="Name of a task; see the command list.", metavar="TASK")]


# -- commands ------------------------------------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib import metadata

        write(f"{NAME} {metadata.version(NAME)}\n")
    elif context.invoked_subcommand is None:
        write(f"{context.get_help()}\n")


@app.command("list")
def list_tasks(as_json: JsonOption = False) -> int:
    """List the tasks: level, category, devices, and what each one computes."""
    from .registration import env_id
    from .registry import task_folders
    from .task import TaskError

    rows: list[dict[str, object]] = []
    broken: list[str] = []
    for name in task_folders():
        try:
            task = load(name)
            devices = [device for device in ("cpu", "cuda") if task.workloads(device)]
        except (Problem, TaskError) as problem:
            broken.append(str(problem))
            continue
        facts = {"level": task.level, "category": task.category, "devices": devices, "summary": task.summary}
        rows.append({"name": name, "id": env_id(name), **facts})
    if as_json:
        write(json.dumps(rows, indent=2) + "\n")
    else:
        display(_task_table(rows))
    if broken:
        raise Problem("; ".join(broken), FAULT)
    return ACCEPTED


@app.command()
def show(task: TaskArgument, device: DeviceOption = Device.AUTO) -> int:
    """Print the prompt of a task as a model gets it (standard output), its seeds and baselines (standard error)."""
    check_task(task, confined=True)
    kind = resolve_device(device.value)
    loaded = load(task)
    if not loaded.workloads(kind):
        raise Problem(f"the task {task!r} has no public workload for device {kind!r}; try the other --device")
    from .prompt import build_prompt

    write(build_prompt(loaded, kind))
    tell(f"\nSeeds, in {loaded.folder / 'seeds'}: {', '.join(loaded.seeds())}")
    baselines = [b for b in loaded.baselines if kind in b.devices]
    tell(f"Baselines on {kind}: " + ", ".join(f"{b.name} ({b.requires})" if b.requires else b.name for b in baselines))
    return ACCEPTED


@app.command()
def evaluate(
    task: TaskArgument,
    file: Annotated[str, typer.Argument(help="File with a reply or bare source code; - reads standard input.", metavar="FILE|-")],
    device: DeviceOption = Device.AUTO,
    reward: Annotated[str, typer.Option(help="Reward preset: a name, or a path to a TOML file.", metavar="PRESET")] = "production",
    effort: Annotated[Effort, typer.Option(help="quick gives an early, noisier answer.")] = Effort.FULL,
    seed: Annotated[int | None, typer.Option(help="Seed of every input; drawn anew without it.")] = None,
    log: Annotated[Path | None, typer.Option(help="JSONL file to append the record to.")] = None,
    strict: StrictOption = None,
    as_json: JsonOption = False,
    workloads: Annotated[Path | None, typer.Option(help="JSONL file of workloads to judge on in place of the public ones.")] = None,
) -> int:
    """Judge a submission: build, verify, time it and say what it is worth."""
    check_task(task, confined=True)
    if workloads is not None:
        task = name_with_workloads(task, workloads)
    text = read_text(file)
    kind = resolve_device(device.value)
    scorer = _Keeper(load_reward(reward))
    if log is not None:
        check_log(log)
    from .log import LogError
    from .sandbox.layers import ContainmentError
    from .task import TaskError

    unlogged = ""
    with _narrated(kind, log, strict) as (evaluator, status):
        status.say(f"judging {task} on {kind}")
        try:
            evaluator.evaluate(task, text, seed=seed, effort=effort.value, rewards={scorer.preset.name: scorer})
        except (TaskError, ContainmentError) as error:
            raise Problem(str(error), FAULT) from error
        except LogError as error:
            unlogged = str(error)
        status.end()
        evaluation, earned = scorer.result()
        _show_evaluation(evaluation, earned, as_json)
    return _status(evaluation, scorer, unlogged)


@app.command()
def warm(
    tasks: Annotated[list[str] | None, typer.Argument(help="Names of tasks; all without any.", metavar="[TASK]...")] = None,
    device: DeviceOption = Device.AUTO,
    force: Annotated[bool, typer.Option(help="Warm again what was warmed before.")] = False,
) -> int:
    """Prepare this host, once: measure its rates, build every baseline, run it on every public workload and verify it."""
    for name in tasks or ():
        check_task(name)
    kind = resolve_device(device.value)
    names = tasks or default_tasks(kind)
    with _narrated(kind, None) as (evaluator, status):
        status.say("opening the device")
        loaded = [load(name) for name in names]
        from . import warm as warming

        results = warming.warm(evaluator.open(), loaded, force=force, progress=status.say)
        status.end()
        display(warming.warm_table(results, kind))
    statuses = {result.status for result in results}
    for result in results:
        if result.status == "fault":
            tell(f"{NAME}: {result.detail}")
    return FAULT if "fault" in statuses else OTHER if "failed" in statuses else ACCEPTED


@app.command()
def qualify(
    tasks: Annotated[list[str] | None, typer.Argument(help="Names of tasks; all without any.", metavar="[TASK]...")] = None,
    device: DeviceOption = Device.AUTO,
    budget: Annotated[int, typer.Option(min=0, help="Automatic mutants of each seed; an eighth of it where Triton is interpreted.")] = 36,
    seed: Annotated[int, typer.Option(help="Seed of the sample of mutants and of every input.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSONL file of results; those that it holds are not judged again.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Judge mutants of a task's seeds, hand-written and automatic. Exit status 1 if one survives that is not equivalent."""
    for name in tasks or ():
        check_task(name)
    if out is not None:
        check_log(out)
    kind = resolve_device(device.value)
    loaded = [load(name) for name in tasks or default_tasks(kind)]
    from .qualify import command
    from .task import TaskError

    with _narrated(kind, None) as (evaluator, status):
        try:
            results = command.qualify(evaluator, loaded, budget=budget, seed=seed, out=out, progress=status.say)
        except TaskError as error:
            raise Problem(str(error), FAULT) from error
        except ValueError as error:
            raise Problem(str(error)) from error
    write(command.summary(results, as_json))
    return command.exit_status(results)


@app.command()
def demo(device: DeviceOption = Device.AUTO, strict: StrictOption = None) -> int:
    """Judge good, slow, wrong and cheating kernels for moe_gemm on this machine and show what becomes of each."""
    kind = resolve_device(device.value)
    from .demo import run_demo
    from .evaluator import Evaluator
    from .sandbox.layers import ContainmentError
    from .types import Outcome

    with Evaluator(kind, strict=strict) as evaluator:
        try:
            shown = run_demo(evaluator, make_console())
        except ContainmentError as error:
            raise Problem(str(error), FAULT) from error
    if all(entry.as_expected for entry in shown):
        return ACCEPTED
    return FAULT if any(entry.evaluation.outcome is Outcome.FAULT for entry in shown) else OTHER


@app.command()
def doctor(as_json: JsonOption = False) -> int:
    """Say what this machine can and cannot judge, and why. Exit status 1 if it can time nothing."""
    from .doctor import examine, render

    report = examine()
    if as_json:
        write(json.dumps(report, indent=2) + "\n")
    else:
        display(render(report))
    return ACCEPTED if report["can_time"] else OTHER


# -- evaluation ----------------------------------------------------------------------------------------------------------------


class _Keeper:
    """Scores with a preset and keeps the record, which is not returned where it cannot be logged."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.problem = ""
        self._kept: tuple[Evaluation, Reward] | None = None

    def score(self, evaluation: Evaluation) -> Reward:
        """The preset's reward; none if one of its terms fails, so that the record is logged all the same."""
        from .types import Reward

        try:
            reward = self.preset.score(evaluation)
        except Exception as error:
            self.problem = f"the reward preset {self.preset.name!r} cannot score this evaluation: {error}"
            reward = Reward(preset=self.preset.name, total=None)
        self._kept = evaluation, reward
        return reward

    def result(self) -> tuple[Evaluation, Reward]:
        """The record that was scored last, and its reward."""
        assert self._kept
        return self._kept


def _show_evaluation(evaluation: Evaluation, reward: Reward, as_json: bool) -> None:
    from .report import evaluation_json, plain_report, render_evaluation

    if as_json:
        write(json.dumps(evaluation_json(evaluation, reward), allow_nan=False) + "\n")
    elif sys.stdout is not None and sys.stdout.isatty():
        display(render_evaluation(evaluation, reward))
    else:
        write(plain_report(evaluation, reward) + "\n")


def _status(evaluation: Evaluation, scorer: _Keeper, unlogged: str) -> int:
    from .types import Outcome

    problems = [problem for problem in (scorer.problem, unlogged) if problem]
    if evaluation.outcome is Outcome.FAULT:
        problems.insert(0, f"the evaluation failed, and not by the submission's fault: {evaluation.reason}")
    if problems:
        raise Problem("; ".join(problems), FAULT)
    return ACCEPTED if evaluation.outcome is Outcome.ACCEPTED else OTHER


@contextlib.contextmanager
def _narrated(kind: str, log: Path | None, strict: bool | None = None) -> Iterator[tuple[Evaluator, StatusLine]]:
    from .evaluator import Evaluator

    with Evaluator(kind, log=log, strict=strict) as evaluator:
        status = StatusLine(evaluator)
        try:
            yield evaluator, status
        finally:
            status.end()


def _task_table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("task", "level", "category", "devices"):
        table.add_column(column, no_wrap=True)
    table.add_column("summary", overflow="fold")
    for row in rows:
        devices = row["devices"]
        assert isinstance(devices, list)
        cells = (str(row["level"]), str(row["category"]), ", ".join(devices), str(row["summary"]))
        table.add_row(Text(str(row["name"]), "bold"), *map(Text, cells))
    return table


# -- the program ---------------------------------------------------------------------------------------------------------------

_signals: list[int] = []


def main() -> NoReturn:
    """The console script."""
    status = run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)  # all is closed; unloading torch module by module would take half a second


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (that of the process, without arguments); returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        status = _run(arguments)
    except Problem as problem:
        tell(f"{NAME}: {problem}")
        return problem.status
    except ReaderGone:
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        status = 0
    except Exception as error:
        if os.environ.get("FASTKERNELS_TRACEBACK"):
            traceback.print_exc()
        tell(f"{NAME}: a fault of this program: {type(error).__name__}: {error}; set FASTKERNELS_TRACEBACK=1 to see where")
        return FAULT
    if _signals:
        tell(f"{NAME}: interrupted")
        return 128 + _signals[0]
    return status


def _run(arguments: list[str] | None) -> int:
    try:
        return int(app(arguments, prog_name=NAME, standalone_mode=False) or 0)
    except _ClickError as error:
        message = str(getattr(error, "format_message", error.__str__)()).replace("\n", " ").replace("Value error, ", "")
        context = getattr(error, "ctx", None)
        command = context.command_path if context else NAME
        raise Problem(f"{message.rstrip('.')}; see {command} --help", getattr(error, "exit_code", UNUSABLE)) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End in order, once: a second signal would only disturb that."""
    _signals.append(number)
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
