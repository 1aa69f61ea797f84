"""The threat suite on a CPU: no threat is accepted, no honest twin is refused, and the right check decides.

One evaluator judges fixtures one after the other, at their effort: in a run a quarter of every category and what has changed, in
`make test-all` all (`sampling.py`). The tasks' seeds, which the command line judges too, have tests of their own.
"""

from __future__ import annotations

import collections

import pytest

from fastkernels_env.bench.integrity import judge_fixture
from fastkernels_env.bench.page import render
from fastkernels_env.bench.suite import CATEGORIES, TWIN, find_suite
from fastkernels_env.submission import extract

SUITE = find_suite(None)
DOCUMENT = SUITE.folder.parent.parent / "docs" / "threats.md"


@pytest.mark.sampled("fixture.category", part=4)
@pytest.mark.parametrize("fixture", SUITE.on("cpu"), ids=lambda fixture: fixture.name)
def test_the_verdict_is_right(fixture, evaluator):
    row = judge_fixture(evaluator, SUITE, fixture)
    assert not row.accepted_threat, f"accepted, {row.grade}: {fixture.how}"
    assert not row.refused_twin, f"refused by {row.decided_by}: {row.reason}"
    assert row.expected, f"{row.outcome} by {row.decided_by!r}: {row.reason}"


def test_every_category_and_most_of_the_tasks_are_tried():
    threats = [fixture for fixture in SUITE.fixtures.values() if not fixture.honest]
    assert {fixture.category for fixture in threats} == set(CATEGORIES) - {TWIN}
    assert len(threats) >= 60
    tasks = collections.Counter(fixture.task for fixture in threats)
    assert len(tasks) == 8


@pytest.mark.parametrize("fixture", SUITE.fixtures.values(), ids=lambda fixture: fixture.name)
def test_a_source_says_what_it_does_and_can_be_read_as_a_submission(fixture):
    text = (SUITE.folder / fixture.file).read_text()
    first = text.partition("\n")[0]
    assert first.startswith("# " if fixture.file.endswith(".py") else "// ")
    assert first.endswith(".")
    from fastkernels_env.registry import load_task

    device = "cpu" if fixture.device == "both" else fixture.device
    submission = extract(SUITE.text(fixture), load_task(fixture.task), device)
    assert submission.language.value == {"triton": "python"}.get(fixture.language, fixture.language)
    assert "include: " not in submission.code


def test_every_source_is_used():
    used = {fixture.file for fixture in SUITE.fixtures.values()}
    there = {f"{path.parent.name}/{path.name}" for path in SUITE.folder.glob("*/*") if path.suffix in (".py", ".cpp", ".cu")}
    assert {file for file in there if not file.startswith("lib/")} == used


def test_the_page_is_current():
    assert DOCUMENT.read_text() == render(SUITE), "run: fastkernels-env bench threats > docs/threats.md"
