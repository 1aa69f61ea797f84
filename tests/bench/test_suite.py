"""A suite is a manifest and sources: what it may hold, what is said where it cannot be used, how includes are spliced in."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.integrity import count, judge_fixture, line, read_rows, run_suite, summary
from fastkernels_env.bench.suite import Suite, SuiteError, find_suite, seed_fixtures
from fastkernels_env.registry import task_folders

RIGHT = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input * weight * factor)\n"
WRONG = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input)\n"
TABLE = {
    "category": "SEM", "task": "tiny_scale", "device": "cpu", "language": "python", "file": "a.py", "how": "so", "expect": ["wrong"],
}  # fmt: skip


@pytest.fixture
def make(tmp_path, tiny):
    """A suite of one source and any number of tables."""

    def make(source=WRONG, **tables):
        (tmp_path / "a.py").write_text(source)
        lines = []
        for name, changed in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {value!r}" for key, value in {**TABLE, **changed}.items()]
        (tmp_path / "manifest.toml").write_text("\n".join(lines) + "\n")
        return Suite(tmp_path)

    return make


PROBLEMS = {
    "a category": ({"category": "ZZZ"}, "there is no category 'ZZZ'"),
    "a task": ({"task": "tiny_scal"}, "there is no task 'tiny_scal'"),
    "a file": ({"file": "b.py"}, "there is no file b.py"),
    "a suffix": ({"language": "cpp"}, "a cpp source ends in .cpp"),
    "an outcome": ({"expect": ["bad"]}, "expect may hold"),
    "no outcome": ({"expect": []}, "expect may hold"),
    "a check": ({"decides": ["smok"]}, "decides may hold"),
    "a twin": ({"twin": "nobody"}, "twin 'nobody' is not an honest fixture"),
    "an accepted threat": ({"expect": ["accepted"]}, "may not be expected to be accepted"),
    "a field": ({"surprise": "x"}, "unknown field `surprise`"),
    "a device": ({"device": "tpu"}, "Invalid enum value 'tpu'"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_fixture_that_cannot_be_used_is_named(name, make):
    changed, sentence = PROBLEMS[name]
    with pytest.raises(SuiteError, match="fixture 'one'") as raised:
        make(one=changed)
    assert sentence in str(raised.value)


def test_a_missing_suite_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"manifest\.toml cannot be read"):
        find_suite(tmp_path)


def test_a_manifest_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "manifest.toml").write_text("[")
    with pytest.raises(SuiteError, match="is not TOML"):
        Suite(tmp_path)


def test_includes_are_spliced_in_and_renamed(make):
    entry = "def tiny_scale(out, input, weight, factor):\n    honest(out, input, weight, factor)\n"
    suite = make(f"# include: baseline:eager.py as honest\n\n\n{entry}", one={})
    text = suite.text(suite.fixtures["one"])
    assert text.startswith("```python\n")
    assert "def honest(out, input, weight, factor):" in text
    assert text.count("def tiny_scale(") == 1


def test_an_include_that_is_not_there_is_named(make):
    suite = make("# include: lib/nothing.py\n" + RIGHT, one={})
    with pytest.raises(SuiteError, match=r"'lib/nothing\.py'"):
        suite.text(suite.fixtures["one"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_seeds_of_all_tasks_are_honest_fixtures(device):
    seeds = seed_fixtures(device)
    assert {seed.task for seed in seeds} == set(task_folders())
    assert all(seed.honest for seed in seeds)
    assert {seed.expect for seed in seeds if seed.language == "triton"} == {("unmeasured",) if device == "cpu" else ("accepted",)}


def test_verdicts_are_told_apart(make, evaluator):
    """A wrong threat is as expected; a right one is an accepted threat; a wrong twin is refused; the deciding check counts."""
    wrong = make(WRONG, good={}, other={"decides": ["hidden_shapes"]}, twin={"category": "TWIN", "expect": ["accepted"]})
    rows = {name: judge_fixture(evaluator, wrong, fixture) for name, fixture in wrong.fixtures.items()}
    assert rows["good"].expected
    assert rows["good"].decided_by == "smoke"
    assert not rows["other"].expected
    assert not rows["other"].accepted_threat
    assert rows["twin"].refused_twin
    counts = count(rows.values())
    assert (counts.threats, counts.threats_accepted, counts.twins, counts.twins_refused) == (2, 0, 1, 1)
    assert counts.unexpected == ["other", "twin"]
    assert not counts.good
    assert "honest twins refused: 1 of 1 (must be 0)" in summary(counts)
    assert line(rows["other"])[3] == "wrong (!)"


def test_an_accepted_threat_is_counted_unless_it_earns_nothing(make, evaluator):
    suite = make(RIGHT, cheat={}, useless={"expect": ["parity"]})
    rows = {name: judge_fixture(evaluator, suite, fixture) for name, fixture in suite.fixtures.items()}
    assert rows["cheat"].accepted_threat
    assert rows["useless"].expected == (rows["useless"].grade != "faster")


def test_rows_that_a_file_holds_are_not_run_again(make, tmp_path, tiny):
    suite, out = make(WRONG, one={}), tmp_path / "rows.jsonl"
    first = run_suite("cpu", suite, suite.on("cpu"), out)
    again = run_suite("cpu", suite, suite.on("cpu"), out, progress=lambda row: pytest.fail("it was run again"))
    assert again == first == read_rows(out)
