"""Times of baselines: every task once, a page of what was measured, nothing judged twice, and arguments that cannot be used."""

from __future__ import annotations

import pytest

from fastkernels_env.bench.baselines import latest, page, run_baselines
from fastkernels_env.cli import run
from fastkernels_env.log import read_log


@pytest.fixture
def tasks(task_files, tmp_path, monkeypatch):
    task_files(tmp_path / "tasks" / "right_scale")
    task_files(tmp_path / "tasks" / "wrong_scale", cpu=task_files.texts["cpu"].replace("* float(factor)", ""))
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path / "tasks"))
    return ["right_scale", "wrong_scale"]


def test_what_is_accepted_is_timed_once_and_what_is_not_is_named(tasks, tmp_path):
    out = tmp_path / "log.jsonl"
    seen = []
    first = run_baselines("cpu", tasks, ["cpu.cpp"], "quick", out, seen.append)
    assert [record.task for record in first] == [record.task for record in seen] == tasks
    again = run_baselines("cpu", tasks, ["cpu.cpp"], "quick", out)
    assert again[0] == first[0]
    assert len(read_log(out)) == 3, "the wrong seed is judged again, the right one is not"
    text = list(page(again))
    assert text == list(page(latest(out)))
    assert any(line.startswith("| [right_scale](#right_scale) | eager") for line in text)
    assert any(line.startswith("| workload | calls | eager | seed |") for line in text)
    assert any(line.startswith("* `wrong_scale`: ") for line in text)


def test_times_are_those_of_the_record(tasks, tmp_path):
    (record,) = run_baselines("cpu", tasks[:1], ["triton.py", "cpu.cpp"], "quick", tmp_path / "log.jsonl")
    timing = record.timings[0]
    (line,) = [line for line in page([record]) if line.startswith(f"| {timing.workload} |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == str(timing.count)
    assert cells[2].startswith(f"**{timing.baselines['eager']:.1f}")
    assert cells[3].startswith(f"{timing.candidate_us:.1f}")


@pytest.fixture
def refused(tasks, capsys, monkeypatch):
    """Run the command, which does nothing but say a sentence: exit status and sentence."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def refused(*arguments):
        status = run(["bench", "baselines", "--device", "cpu", "--task", "right_scale", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("fastkernels-env: ")
        assert err.count("\n") == 1
        assert "a fault of this program" not in err
        return status, err

    return refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--effort", "half"), "'half' is not one of 'full', 'quick'"),
        (("--file", "zzz.cpp"), "expected a seed's file name, one of cpu.cpp, got 'zzz.cpp'"),
        (("--file", "cpu.cpp", "--file", "cuda.cu"), "expected a seed's file name, one of cpu.cpp, got 'cuda.cu'"),
        (("--task", "zzz"), "there is no task 'zzz'"),
        (("--device", "tpu"), "'tpu'"),
    ],
)
def test_unusable_arguments_are_the_users_error(refused, tmp_path, arguments, sentence):
    out = tmp_path / "log.jsonl"
    status, said = refused("--out", out, *arguments)
    assert status == 2
    assert sentence in said
    assert not out.exists()


@pytest.mark.parametrize("render", [(), ("--render",)])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"schema_version": 1, "task": "right_sc', "line 1 is torn or no evaluation"),
        ("a note\n", "line 1 is torn or no evaluation"),
        ('{"schema_version": 0}\n', "line 1 has schema version 0"),
    ],
)
def test_a_log_that_cannot_be_read_is_the_users_error(refused, tmp_path, text, sentence, render):
    out = tmp_path / "log.jsonl"
    out.write_text(text)
    status, said = refused("--out", out, *render)
    assert status == 2
    assert f"{out}: {sentence}" in said
    assert out.read_text() == text
