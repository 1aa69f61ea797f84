"""Which cases of the dear tests a run takes: a sample, another one with every commit, so that all have their turn.

Tests that judge in real processes, once per task, mutant or threat, would take hours together. They carry a mark:

* ``sampled("name", take=4)``: four of the groups of cases that the parameter `name` forms, and ``each`` cases of a group (one by default);
* ``sampled("fixture.category", part=4)``: of every group (here: of each category of threats) a quarter, at least one case;
* ``sampled(take=2)``, on several tests of a file: two of them.

Groups and cases follow one another in a fixed order, of which the number of the sample chooses a section: all have their turn, and the
tests of one run meet the same tasks. What a change touches, a task or a threat, is in the sample as well. Tests that are not about one task
each are not sampled where the part of the library that they mirror has changed, nor is what somebody asks for by name (``-k``,
``FILE::TEST``).

The variable ``FASTKERNELS_TESTS`` is ``all``, or the number of a sample to repeat. Without it the number is the count of commits; that of a
checkout without its history comes from the commit's hash, that of a folder without git from the date. ``FASTKERNELS_TESTS_SINCE`` names the
commit that a change begins at, instead of the one before the last.

`conftest.py` makes `Sample` a plugin of pytest.
"""

from __future__ import annotations

import os
import subprocess
import time
import tomllib
import zlib
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest

MOST = 12
"""Changed tasks and threats that join a sample, of each test, unless its mark says ``most``: a change of all of them may not take hours."""
THREATS = "tests/threats"


def git(root: Path, *arguments: str) -> str | None:
    """What git says of a checkout; None if there is no git, no repository, or no such thing in it."""
    try:
        done = subprocess.run(("git", "-C", root, *arguments), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def sample_number(root: Path) -> int:
    """The number of this run's sample."""
    if wanted := os.environ.get("FASTKERNELS_TESTS"):
        if not wanted.isdecimal():
            raise pytest.UsageError(f"expected FASTKERNELS_TESTS to be all or the number of a sample, got {wanted!r}")
        return int(wanted)
    if git(root, "rev-parse", "--is-shallow-repository") == "false" and (count := git(root, "rev-list", "--count", "HEAD")):
        return int(count)
    commit = git(root, "rev-parse", "HEAD")
    return int(commit[:6], 16) if commit else int(time.time() // 86400)


def changed_files(root: Path, since: str) -> set[str]:
    """Paths below the project's folder that differ from a commit (if it is not there, from the last one) or are new."""
    changed = git(root, "diff", "--name-only", "--relative", since)
    if changed is None:
        changed = git(root, "diff", "--name-only", "--relative", "HEAD")
    new = git(root, "ls-files", "--others", "--exclude-standard")
    return {*(changed or "").splitlines(), *(new or "").splitlines()}


def changed_names(root: Path, since: str, files: set[str]) -> set[str]:
    """The tasks and the threats behind changed files."""
    tasks = {file.split("/")[1] for file in files if file.startswith("envs/") and file.count("/") > 1}
    if not any(file.startswith(f"{THREATS}/") for file in files):
        return tasks
    before = git(root, "show", f"{since}:./{THREATS}/manifest.toml")
    old = tomllib.loads(before) if before else None
    fixtures = tomllib.loads((root / THREATS / "manifest.toml").read_text())
    return tasks | {
        name for name, fixture in fixtures.items()
        if (old is not None and old.get(name) != fixture) or not files.isdisjoint(sources(root, fixture["file"]))
    }  # fmt: skip


def tests_changed_code(test: Path, root: Path, files: set[str]) -> bool:
    """Whether the part of the library that a file of tests mirrors has changed."""
    folder = test.relative_to(root / "tests").parts[0]
    part = f"{folder.removeprefix('test_')}" if folder.endswith(".py") else f"{folder}/"
    return any(file.startswith(f"fastkernels_env/{part}") for file in files)


def sources(root: Path, file: str) -> list[str]:
    """The files that a threat is made of: its own, and those of the suite that it includes."""
    lines = (root / THREATS / file).read_text().splitlines()
    included = [line.split("include: ")[1].split()[0] for line in lines if "include: lib/" in line]
    return [f"{THREATS}/{name}" for name in (file, *included)]


def section(things: list, number: int, size: int) -> list[tuple]:
    """The `number`-th section of a list that begins anew where it ends: pairs of a thing and how often it had its turn before."""
    size = min(size, len(things))
    places = range(number * size, (number + 1) * size)
    return [(things[place % len(things)], place // len(things)) for place in places]


def shuffled(things: list, name: Callable[..., str]) -> list:
    """The things in an order that has nothing to do with the alphabet and is always the same."""
    return sorted(things, key=lambda thing: (zlib.crc32(name(thing).encode()), name(thing)))


def group_of(case: pytest.Item, key: str) -> str:
    """What a case is grouped by."""
    parameter, _, attribute = key.partition(".")
    if not parameter:
        return case.name
    value = case.callspec.params[parameter]
    return attrgetter(attribute)(value) if attribute else value


def is_about(case: pytest.Item, names: set[str]) -> bool:
    """Whether a parameter of a case is a threat with one of these names."""
    return any(getattr(value, "name", None) in names for value in case.callspec.params.values())


def is_over_tasks(cases: list[pytest.Item], tasks: set[str]) -> bool:
    """Whether the cases are about one task each."""
    return all(hasattr(case, "callspec") and not tasks.isdisjoint(map(str, case.callspec.params.values())) for case in cases)


def choose(
    cases: list[pytest.Item], number: int, names: set[str], key: str = "", take: int = 0, each: int = 1, part: int = 0, most: int = MOST
) -> list[pytest.Item]:
    """The cases of one test that belong to a sample.

    Args:
        cases: All of them.
        number: Of the sample.
        names: Tasks and threats that are in it whatever the number.
        key: Of the mark: the parameter, or an attribute of it, that tells the groups apart; the case itself if empty.
        take: How many groups; all if 0.
        each: How many cases of a group.
        part: If not 0: one case in so many of a group, instead of `each`.
        most: How many of `names`.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for case in shuffled(cases, lambda case: case.name):
        groups.setdefault(group_of(case, key), []).append(case)
    order = shuffled(list(groups), str)
    turns = {group: number for group, _ in section([group for group in order if group in names], number, most)}
    turns |= dict(section(order, number, take or len(order)))
    sizes = {group: -(-len(groups[group]) // part) if part else each for group in turns}
    chosen = [case for group, turn in turns.items() for case, _ in section(groups[group], turn, sizes[group])]
    touched = [case for case in cases if key and is_about(case, names)]
    return chosen + [case for case, _ in section(touched, number, most)]


class Sample:
    """The sample of a run, as a plugin of pytest."""

    line = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        tests: dict[tuple, list[pytest.Item]] = {}
        for item in items:
            if mark := item.get_closest_marker("sampled"):
                tests.setdefault((item.path, item.originalname if mark.args else str(mark.kwargs)), []).append(item)
        by_name = config.option.keyword or any("::" in argument for argument in config.args)
        if not tests or by_name or os.environ.get("FASTKERNELS_TESTS") == "all":
            return
        root, since, kept = config.rootpath, os.environ.get("FASTKERNELS_TESTS_SINCE", "HEAD~1"), set()
        number, files = sample_number(root), changed_files(root, since)
        names, tasks = changed_names(root, since, files), {path.parent.name for path in root.glob("envs/*/task.py")}
        for (path, _), cases in tests.items():
            mark = cases[0].get_closest_marker("sampled")
            whole = cases if tests_changed_code(path, root, files) and not is_over_tasks(cases, tasks) else ()
            kept.update(whole or choose(cases, number, names, *mark.args, **mark.kwargs))
        left = {case for cases in tests.values() for case in cases} - kept
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=list(left))
        shown = ", ".join(sorted(names)[:MOST]) + (", ..." if len(names) > MOST else "")
        changed = f", changed since {since}: {shown}" if names else ""
        self.line = (
            f"Sample {number}: {len(kept)} of {len(kept) + len(left)} cases of the dear tests{changed}. "
            f"FASTKERNELS_TESTS={number} repeats it, FASTKERNELS_TESTS=all runs every case."
        )

    def pytest_collection_finish(self, session):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if self.line and reporter:
            reporter.write_line(self.line)

    def pytest_terminal_summary(self, terminalreporter):
        if self.line and (terminalreporter.stats.get("failed") or terminalreporter.stats.get("error")):
            terminalreporter.write_line(self.line)
