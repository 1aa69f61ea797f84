"""The sample of the dear tests: everything has its turn, what changed is in it, it can be repeated, and it can be turned off."""

import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path(__file__).with_name("sampling.py")
SAMPLING = runpy.run_path(str(SOURCE))
FILES = {
    "conftest.py": f"""
        import runpy

        def pytest_configure(config):
            config.pluginmanager.register(runpy.run_path({str(SOURCE)!r})["Sample"](), "sample")
    """,
    "pytest.ini": "[pytest]\naddopts = -q\nmarkers = sampled(key, take, each, part)\n",
    "tests/test_it.py": """
        import os, pytest
        from collections import namedtuple

        TASKS = sorted(os.listdir("envs"))
        Fixture = namedtuple("Fixture", "name category")
        FIXTURES = [Fixture(f"{c}{i}", c) for c in "ABC" for i in range(4)]

        @pytest.mark.parametrize("name", TASKS)
        def test_cheap(name): pass

        @pytest.mark.sampled("name", take=2)
        @pytest.mark.parametrize("name", TASKS)
        def test_dear(name): pass

        @pytest.mark.sampled("fixture.category", part=4)
        @pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.name)
        def test_threat(fixture): assert fixture.name != os.environ.get("WRONG")

        @pytest.mark.sampled(take=1)
        def test_one(): pass

        @pytest.mark.sampled(take=1)
        @pytest.mark.parametrize("way", [0, 1])
        def test_other(way): pass
    """,
    "tests/threats/manifest.toml": "".join(f'[{c}{i}]\nfile = "{c}{i}.py"\nhow = "it lies"\n' for c in "ABC" for i in range(4)),
    **{f"tests/threats/{c}{i}.py": "# it lies\n" for c in "ABC" for i in range(4)},
    "tests/threats/A1.py": "# include: lib/shared.py\n",
    "tests/threats/lib/shared.py": "",
    **{f"envs/task{i}/task.py": "" for i in range(8)},
    "tests/pool/test_pool.py": """
        import pytest

        @pytest.mark.sampled("way", take=1)
        @pytest.mark.parametrize("way", ["a", "b", "c"])
        def test_way(way): pass
    """,
    "fastkernels_env/pool/pool.py": "",
}


@pytest.fixture
def project(tmp_path):
    """A project with tasks, threats and tests of both, in git, after two commits."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    (tmp_path / "other").touch()
    commit(tmp_path)
    return tmp_path


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/nowhere")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "more")


def collect(folder, *arguments, wanted=None, **environment):
    """The cases that a run takes, by test, and what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FASTKERNELS_TESTS", "PYTEST_", "GIT_"))}
    clean |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **({"FASTKERNELS_TESTS": wanted} if wanted else {})}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-vv", *arguments]
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=120)
    cases = {"cheap": set(), "dear": set(), "threat": set(), "one": set(), "other": set(), "way": set()}
    for test, case in re.findall(r"^\S+::test_(\w+)(?:\[(\w+)\])? \w+", done.stdout, re.MULTILINE):
        cases[test].add(case)
    return cases, done.stdout + done.stderr


def test_a_sample_is_said_and_can_be_repeated(project):
    cases, printed = collect(project)
    assert [len(cases[test]) for test in ("cheap", "dear", "threat")] == [8, 2, 3]
    assert {name[0] for name in cases["threat"]} == {"A", "B", "C"}, "of every category"
    assert len(cases["one"] | cases["other"]) == 1, "one of several tests"
    assert printed.count("Sample 2: 7 of 26 cases of the dear tests. FASTKERNELS_TESTS=2 repeats it") == 1
    git(project, "commit", "--quiet", "--allow-empty", "--message", "again")
    other, _ = collect(project)
    assert other["dear"].isdisjoint(cases["dear"])
    assert other["threat"].isdisjoint(cases["threat"])
    assert collect(project, wanted="2")[0] == cases
    _, printed = collect(project, wanted="2", WRONG=min(cases["threat"]))
    assert printed.count("FASTKERNELS_TESTS=2 repeats it") == 2, "where it starts and after a failure"


def test_all_cases_run_where_somebody_wants_them(project):
    everything, printed = collect(project, wanted="all")
    assert [len(everything[test]) for test in ("cheap", "dear", "threat")] == [8, 8, 12]
    assert "Sample" not in printed
    assert collect(project, "-k", "task3")[0]["dear"] == {"task3"}
    assert len(collect(project, "tests/test_it.py::test_dear")[0]["dear"]) == 8
    _, printed = collect(project, wanted="some")
    assert "expected FASTKERNELS_TESTS to be all or the number of a sample, got 'some'" in printed


def test_what_a_change_touches_is_in_the_sample(project):
    (project / "envs" / "task1" / "task.py").write_text("# committed")
    (project / "tests" / "threats" / "B2.py").write_text("# it lies again")
    commit(project)
    (project / "envs" / "task2" / "task.py").write_text("# not committed")
    (project / "envs" / "task9").mkdir()
    (project / "envs" / "task9" / "task.py").write_text("# new")
    (project / "tests" / "threats" / "lib" / "shared.py").write_text("# included by A1")
    manifest = project / "tests" / "threats" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace('"C3.py"\nhow = "it lies"', '"C3.py"\nhow = "it does not"'))
    for number in map(str, range(3)):
        cases, printed = collect(project, wanted=number)
        assert {"task1", "task2", "task9"} <= cases["dear"]
        assert {"A1", "B2", "C3"} <= cases["threat"]
        assert "changed since HEAD~1: A1, B2, C3, task1, task2, task9." in printed
    commit(project)
    assert "task1" not in collect(project, wanted="0")[1].partition("Sample")[2].partition("\n")[0]
    assert "task1" in collect(project, wanted="0", FASTKERNELS_TESTS_SINCE="HEAD~2")[0]["dear"]


def test_tests_of_what_has_changed_are_not_sampled(project):
    assert len(collect(project, wanted="0")[0]["way"]) == 1
    (project / "fastkernels_env" / "pool" / "pool.py").write_text("# changed")
    cases, _ = collect(project, wanted="0")
    assert cases["way"] == {"a", "b", "c"}
    assert len(cases["dear"]) == 2


def test_a_sample_needs_neither_history_nor_git(project, tmp_path_factory):
    shallow = tmp_path_factory.mktemp("clone") / "shallow"
    git(project, "clone", "--quiet", "--depth", "1", project.as_uri(), str(shallow))
    cases, printed = collect(shallow)
    assert (len(cases["dear"]), len(cases["threat"])) == (2, 3)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=shallow, capture_output=True, text=True, check=True).stdout
    assert f"Sample {int(head[:6], 16)}: " in printed
    (shallow / ".git").rename(shallow / "was_git")
    cases, printed = collect(shallow, GIT_CEILING_DIRECTORIES=str(shallow.parent))
    assert (len(cases["dear"]), len(cases["threat"])) == (2, 3)
    assert "Sample " in printed


def make_cases(groups):
    """Stand-ins for collected cases: so many of each group."""
    return [
        SimpleNamespace(name=f"t[{group}-{case}]", callspec=SimpleNamespace(params={"name": f"g{group}", "case": case}))
        for group, count in enumerate(groups) for case in range(count)
    ]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 300))
def test_every_case_has_its_turn_and_none_more_than_its_share(groups, take, each, first):
    cases, seen = make_cases(groups), []
    rounds = -(-len(groups) // take) * -(-max(groups) // each) + 1
    for number in range(first, first + rounds):
        chosen = SAMPLING["choose"](cases, number, set(), "name", take=take, each=each)
        assert len({case.callspec.params["name"] for case in chosen}) == min(take, len(groups))
        assert len(chosen) <= take * each
        assert len(chosen) == len({case.name for case in chosen})
        seen += chosen
    assert {case.name for case in seen} == {case.name for case in cases}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 300))
def test_every_part_of_a_group_has_its_turn(groups, part, first):
    cases = make_cases(groups)
    samples = [SAMPLING["choose"](cases, number, set(), "name", part=part) for number in range(first, first + part)]
    for chosen in samples:
        counts = [sum(case.callspec.params["name"] == f"g{group}" for case in chosen) for group in range(len(groups))]
        assert counts == [-(-count // part) for count in groups]
    assert {case.name for chosen in samples for case in chosen} == {case.name for case in cases}


def test_a_change_of_everything_does_not_run_everything():
    cases = make_cases([3] * 40)
    names = {case.callspec.params["name"] for case in cases}
    chosen = SAMPLING["choose"](cases, 5, names, "name", take=4, each=2)
    assert SAMPLING["MOST"] <= len({case.callspec.params["name"] for case in chosen}) <= SAMPLING["MOST"] + 4
    assert len(chosen) <= 2 * (SAMPLING["MOST"] + 4)
    few = SAMPLING["choose"](cases, 5, names, "name", take=4, most=1)
    assert 4 <= len(few) <= 5
