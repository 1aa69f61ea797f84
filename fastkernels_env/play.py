"""The command ``fastkernels-env play``: a person is the policy, an editor the pen.

Each turn opens the file in an editor, judges it through a `KernelEnv` and prints what a policy would get. Every judged version is
kept beside the file.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._arguments import check_log, check_task, load, load_reward, resolve_device
from ._editor import default_suffix, edit, find_editor, template
from ._terminal import ACCEPTED, FAULT, Problem, StatusLine, display, tell, write

if TYPE_CHECKING:
    from .env import KernelEnv
    from .task import Task

_DONE = ("", "q", "quit")


def play(
    task: Annotated[str, typer.Argument(help="Name of a task; see the command list.", metavar="TASK")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    reward: Annotated[str, typer.Option(help="Reward preset: a name, or a path to a TOML file.", metavar="PRESET")] = "production",
    effort: Annotated[str, typer.Option(help="full or quick; quick gives an early, noisier answer.")] = "full",
    max_turns: Annotated[int, typer.Option(min=1, help="Turns of the episode.")] = 20,
    log: Annotated[Path | None, typer.Option(help="JSONL file to append the records to.")] = None,
    editor: Annotated[str | None, typer.Option(help="Command of the editor; VISUAL or EDITOR without it.")] = None,
    file: Annotated[Path | None, typer.Option(help="File to edit: .cpp, .cu or .py; play-TASK/TASK.cpp (or .cu) without it.")] = None,
) -> int:
    """Write a kernel yourself: edit, have it judged, see the report and what it pays, edit again."""
    check_task(task)
    if effort not in ("full", "quick"):
        raise Problem(f"expected effort to be full or quick, got {effort!r}")
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise Problem(f"play needs a terminal to ask what to do; judge a file with `fastkernels-env evaluate {task} FILE`")
    command = find_editor(editor)
    kind = resolve_device(device)
    preset = load_reward(reward)
    if log is not None:
        check_log(log)
    loaded = load(task)
    if not loaded.workloads(kind):
        raise Problem(f"the task {task!r} has no public workload for device {kind!r}; try the other --device")
    path = file or Path(f"play-{task}") / f"{task}{default_suffix(kind)}"
    _lay_out(loaded, kind, path)
    from .env import KernelEnv

    env = KernelEnv(task, device=kind, reward=preset, max_turns=max_turns, effort=effort, log=log)
    try:
        Game(env, path, command).play()
    finally:
        env.close()
        write(f"your file: {path.resolve()}\n")
    return ACCEPTED


class Game:
    """One episode with a person as the policy."""

    def __init__(self, env: KernelEnv, path: Path, editor: list[str]) -> None:
        self._env, self._path, self._editor = env, path, editor
        self._seen = _read(path)
        self._turn, self._over = 0, False
        self._best: tuple[float, str] | None = None

    def play(self) -> None:
        """Until the person leaves or the turns are used up."""
        observation, _ = self._env.reset()
        answer = "e"
        while answer not in _DONE:
            if answer == "p":
                write(f"{observation['prompt']}\n")
            elif answer == "j" or self._edited():
                self._judge()
            if self._over:
                write("That was the last turn.\n")
                return
            answer = _ask()

    def _edited(self) -> bool:
        """Let the person edit; whether there is something new to judge."""
        tell(f"turn {self._turn + 1} of {self._env.max_turns}: editing {self._path}")
        status = edit(self._editor, self._path)
        if status:
            tell(f"the editor ended with status {status}; nothing was judged")
            return False
        if _read(self._path) == self._seen:
            tell("the file is as it was; nothing was judged (j judges it all the same)")
            return False
        return True

    def _judge(self) -> None:
        """One step of the environment."""
        from .env import EvaluationFault
        from .log import LogError
        from .report import FEEDBACK_LINES, render_evaluation
        from .sandbox.layers import ContainmentError
        from .task import TaskError
        from .types import Outcome

        env, self._seen = self._env, _read(self._path)
        status = StatusLine(env.evaluator)
        status.say(f"judging {self._path.name}")
        try:
            evaluation = env.evaluator.evaluate(**env.request(self._seen))
        except LogError as error:
            if error.evaluation is None:
                raise
            evaluation = error.evaluation
            tell(str(error))
        except (TaskError, ContainmentError) as error:
            raise Problem(str(error), FAULT) from error
        finally:
            status.end()
        display(render_evaluation(evaluation, evaluation.rewards[env.scorer.name]))
        if evaluation.feedback.count("\n") >= FEEDBACK_LINES:
            write(f"{evaluation.feedback}\n")
        try:
            observation, paid, terminated, truncated, info = env.settle(evaluation)
        except EvaluationFault as fault:
            tell(f"{fault}; the turn does not count")
            return
        self._turn, self._over = int(observation["turn"]), terminated or truncated
        kept = _keep(self._path, self._seen)
        score = float(info["score"])
        if evaluation.outcome is Outcome.ACCEPTED and (self._best is None or score > self._best[0]):
            self._best = score, f"{score:+.3f} ({info['speedup']:.3g}x) by {kept.name}"
        best = self._best[1] if self._best else "nothing accepted yet"
        write(f"turn {self._turn}: score {score:+.3f}, paid {paid:+.3f}; best so far: {best}\nkept as {kept}\n")


def _lay_out(task: Task, device: str, path: Path) -> None:
    """The prompt, and a file to start from unless there is one."""
    from .prompt import build_prompt

    prompt = build_prompt(task, device)
    start = None if path.exists() else template(prompt, task.entry, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f"{task.entry}.prompt.md").write_text(prompt)
        if start is None:
            tell(f"going on with {path}, which was there")
        else:
            path.write_text(start)
    except OSError as error:
        raise Problem(f"{path} cannot be written ({error.strerror or error}); name another file with --file") from error


def _ask() -> str:
    """What to do next: a letter. The end of the input means to quit."""
    while True:
        tell("[e]dit again, [j]udge the file, show the [p]rompt, [q]uit?")
        line = sys.stdin.readline()
        word = line.strip().lower()
        if not line or word in ("e", "j", "p", "q", "edit", "judge", "prompt", "quit"):
            return word[:1]
        tell(f"expected e, j, p or q, got {word!r}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not UTF-8 text (byte {error.start}); a submission is source code, not a binary") from error
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror or error})") from error


def _keep(path: Path, text: str) -> Path:
    """A copy of what was judged, under the first free number."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    try:
        kept.write_text(text)
    except OSError as error:
        raise Problem(f"{kept} cannot be written ({error.strerror or error})") from error
    return kept
