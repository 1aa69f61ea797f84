"""The threat suite as data: one TOML table per fixture, one source file each.

A fixture is a submission and what must become of it. Category `TWIN` marks honest submissions; every other one is a threat. `expect` holds
outcomes; the word ``parity`` in it stands for *accepted, and not faster than the baseline*: the lie was useless, or, for shortcuts, the
answer is right and earns nothing.

A line ``# include: SOURCE`` (``// include:`` in the C family) is replaced by a file: ``lib/NAME`` of the suite, or ``seed:NAME`` or
``baseline:NAME`` of the task. With ``as NAME`` behind it the entry in that text is renamed, so that a fixture can wrap honest code.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from ..checks import CHECKS
from ..registry import load_task, task_folders
from ..task import SEED_LANGUAGE
from ..types import Language, Outcome, Stage

TWIN = "TWIN"
CATEGORIES: Mapping[str, str] = {
    "TIM": "timing: the measured time is not the time of the work",
    "RPL": "replay: an old or precomputed result is served in place of new work",
    "SEM": "semantics: the required function is not computed, on some or all inputs",
    "HAR": "harness: the judge, its data, its channel or its files are attacked",
    "SHC": "shortcut: the right answer, by work that is not the submission's own",
    "NUM": "numerics: precision traded away under the tolerance",
    "FAS": "fault that hides as success",
    "PRD": "production fault: passes a unit check, breaks in a serving or training stack",
    TWIN: "honest technique that looks like one of the above",
}
PARITY = "parity"
"""In `expect`: accepted, and not faster than the best baseline."""

_INCLUDE = re.compile(r"^(?:#|//) include: (\S+)(?: as (\w+))?$", re.MULTILINE)
_SUFFIX = {"python": ".py", "triton": ".py", "cpp": ".cpp", "cuda": ".cu"}
_OUTCOMES = {outcome.value for outcome in Outcome} - {Outcome.FAULT.value} | {PARITY}
_DECIDERS = {spec.name for spec in CHECKS} | {stage.value for stage in Stage}


class SuiteError(Exception):
    """The suite is not there or cannot be used; the message says what is wrong and where."""


class Fixture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One submission of the suite."""

    name: str
    category: str
    threats: tuple[str, ...] = ()
    """Numbers of the catalogue of threats, or ``own``."""
    task: str
    device: Literal["cpu", "cuda", "both"]
    language: Literal["python", "triton", "cpp", "cuda"]
    file: str
    """Path of the source, from the suite's folder."""
    how: str
    """What it does, in one sentence."""
    expect: tuple[str, ...]
    """Acceptable outcomes."""
    decides: tuple[str, ...] = ()
    """Acceptable values of `Evaluation.decided_by`; any if empty."""
    effort: Literal["quick", "full"] = "quick"
    twin: str = ""
    """Name of the honest fixture that looks like this one."""

    @property
    def honest(self) -> bool:
        """Whether refusing it would be a false alarm."""
        return self.category == TWIN


class Suite:
    """A folder of fixtures.

    Args:
        folder: Holds ``manifest.toml``, the sources, and ``lib/``.

    Raises:
        SuiteError: It is not there, or a fixture is unusable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fixtures: dict[str, Fixture] = {}
        for name, table in _read_manifest(folder).items():
            try:
                self.fixtures[name] = msgspec.convert({"name": name, **table}, Fixture)
            except msgspec.ValidationError as error:
                raise SuiteError(f"fixture {name!r} of {folder}: {error}") from error
        for fixture in self.fixtures.values():
            if problem := self._problem(fixture):
                raise SuiteError(f"fixture {fixture.name!r} of {folder}: {problem}")

    def on(self, device: str) -> list[Fixture]:
        """The fixtures of a device kind, in the manifest's order."""
        return [fixture for fixture in self.fixtures.values() if fixture.device in (device, "both")]

    def text(self, fixture: Fixture) -> str:
        """The reply to submit: the source with its includes, in a fence."""
        code = _INCLUDE.sub(lambda match: self._included(fixture.task, match[1], match[2]), self._path(fixture).read_text())
        tag = {"cpp": "cpp", "cuda": "cuda"}.get(fixture.language, "python")
        return f"```{tag}\n{code.rstrip()}\n```\n"

    def _path(self, fixture: Fixture) -> Path:
        return self.folder / fixture.file

    def _included(self, task: str, source: str, alias: str | None) -> str:
        kind, _, name = source.partition(":")
        folder = {"seed": load_task(task).folder / "seeds", "baseline": load_task(task).folder / "baselines"}.get(kind)
        path = folder / name if folder else self.folder / source
        if not path.is_file():
            raise SuiteError(f"expected an include of lib/NAME, seed:NAME or baseline:NAME that exists, got {source!r} (task {task!r})")
        text = path.read_text().rstrip()
        return re.sub(rf"(?<![\w.]){load_task(task).entry}\(", f"{alias}(", text) if alias else text

    def _problem(self, fixture: Fixture) -> str:
        """What is wrong with a fixture; empty if nothing is."""
        twin = self.fixtures.get(fixture.twin)
        problems = {
            f"there is no category {fixture.category!r}, only {', '.join(CATEGORIES)}": fixture.category not in CATEGORIES,
            f"there is no task {fixture.task!r}": fixture.task not in task_folders(),
            f"there is no file {fixture.file}": not self._path(fixture).is_file(),
            f"a {fixture.language} source ends in {_SUFFIX[fixture.language]}": not fixture.file.endswith(_SUFFIX[fixture.language]),
            f"expect may hold {', '.join(sorted(_OUTCOMES))}": not fixture.expect or not set(fixture.expect) <= _OUTCOMES,
            f"decides may hold {', '.join(sorted(_DECIDERS))}": not set(fixture.decides) <= _DECIDERS,
            f"its twin {fixture.twin!r} is not an honest fixture": bool(fixture.twin) and (twin is None or not twin.honest),
            "a threat may not be expected to be accepted": not fixture.honest and Outcome.ACCEPTED.value in fixture.expect,
        }
        return next((problem for problem, holds in problems.items() if holds), "")


def seed_fixtures(device: str) -> list[Fixture]:
    """The tasks' own seeds as honest fixtures, for the languages that the device judges."""
    suffixes = (".cpp", ".py") if device == "cpu" else (".cu", ".py")
    found = []
    for task in task_folders():
        for name in load_task(task).seeds():
            if name.endswith(suffixes):
                triton = SEED_LANGUAGE[Path(name).suffix] is Language.PYTHON
                expect = Outcome.UNMEASURED if triton and device == "cpu" else Outcome.ACCEPTED
                found.append(Fixture(
                    name=f"seed/{task}/{name}", category=TWIN, task=task, device="cpu" if device == "cpu" else "cuda",
                    language="triton" if triton else "cpp" if device == "cpu" else "cuda", file=f"seeds/{name}",
                    how="the task's own seed", expect=(expect.value,),
                ))  # fmt: skip
    return found


def find_suite(folder: Path | None) -> Suite:
    """The suite of a folder, or that of the checkout which this package runs from.

    Raises:
        SuiteError: There is none, or it cannot be used.
    """
    if folder is None:
        folder = Path(__file__).resolve().parent.parent.parent / "tests" / "threats"
        if not folder.is_dir():
            raise SuiteError(f"the threat suite is part of the source checkout, and {folder} is not there; name its folder with --suite")
    return Suite(folder)


def _read_manifest(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / "manifest.toml"
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SuiteError(f"expected a threat suite in {folder}, but {path.name} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path} is not TOML: {error}") from error
