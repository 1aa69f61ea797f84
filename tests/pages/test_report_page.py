"""One run as a page: the command, what the page says, how a browser shows it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fastkernels_env._terminal import Problem
from fastkernels_env.log import append_record, encode_record
from fastkernels_env.pages.command import page_path, report
from fastkernels_env.pages.report_page import LAST, report_page
from fastkernels_env.pages.roofline import speed_of_light_us
from fastkernels_env.pages.run_summary import NOT_REACHED, RunSummary
from fastkernels_env.pages.timeline import _score_bins
from fastkernels_env.reward import load_preset
from fastkernels_env.types import Context, DeviceInfo, Outcome

FOLDER = Path(__file__).parent
strategies = runpy.run_path(str(FOLDER.parent / "reward" / "strategies.py"))
browser = runpy.run_path(str(FOLDER.parent / "browser.py"))
bare, realistic, check = (strategies[name] for name in ("bare", "realistic", "check"))
in_browser = pytest.mark.skipif(browser["find"]() is None, reason="no browser is installed")
SECTIONS = [
    "Outcomes", "Timeline", "Best kernels", "Between baseline and speed of light", "Verification", "Where the time went",
    "Last evaluations",
]  # fmt: skip
PRODUCTION = load_preset("production")


def records():
    """Two runs of five evaluations, of all kinds."""
    slow = msgspec.structs.replace(realistic().speedup, estimate=0.8, low=0.7, high=0.9)
    silent = [
        check("smoke", "smoke", "passed"), check("numerics", "verify", "failed"), check("cuda_graph", "integrate", "not_run", "no GPU"),
        check("op_schema", "integrate", "not_run", "the evaluation ended before it: silent_error"),
    ]  # fmt: skip
    kinds = [
        (bare(Outcome.REJECTED), {"device": DeviceInfo(kind="cpu", name="not opened"), "checks": [check("contract", "build", "failed")]}),
        (realistic(), {"speedup": slow, "code": "int slow = 1 < 2;"}),
        (bare(Outcome.SILENT_ERROR), {"checks": silent, "decided_by": "numerics", "reason": "row 3 <is> wrong"}),
        (realistic(), {"id": "fast", "code": "int fast = 1 < 2;"}),
        (bare(Outcome.FAULT), {"reason": "the host went away"}),
    ]
    return [
        msgspec.structs.replace(record, context=Context(run=run, policy_step=step), **fields)
        for run in ("one", "two") for step, (record, fields) in enumerate(kinds)
    ]


def summary_of(found):
    summary = RunSummary(PRODUCTION)
    for record in found:
        summary.add(record)
    return summary


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(map(encode_record, records())))
    return path


def test_summary_counts():
    summary = summary_of(records())
    assert summary.outcomes == {"rejected": 2, "silent_error": 2, "accepted": 4, "fault": 2}
    assert list(summary.runs) == ["one", "two"]
    tasks = {(run.task, run.device): run for run in summary.tasks}
    assert list(tasks) == [("moe_gemm", "NVIDIA H200"), ("rms_norm", "Test CPU")]
    assert tasks["rms_norm", "Test CPU"].outcomes == {"rejected": 2, "silent_error": 2, "fault": 2}
    assert tasks["rms_norm", "Test CPU"].best is None
    moe = tasks["moe_gemm", "NVIDIA H200"]
    assert (moe.first.number, moe.best.number) == (2, 4)
    assert moe.best.evaluation.id == "fast"


def test_what_was_never_opened_has_a_line_of_its_own():
    summary = summary_of(records()[:1])
    assert [(run.task, run.device) for run in summary.tasks] == [("rms_norm", "cpu")]


def test_not_run_and_not_reached_are_not_passed():
    lines = {name: cells for _, name, cells in summary_of(records()).matrix()}
    assert lines["cuda_graph"]["silent_error"] == {"passed": 0, "failed": 0, "not_run": 2, NOT_REACHED: 0}
    assert lines["cuda_graph"]["accepted"] == {"passed": 4, "failed": 0, "not_run": 0, NOT_REACHED: 0}
    assert lines["cuda_graph"]["rejected"] == {"passed": 0, "failed": 0, "not_run": 0, NOT_REACHED: 2}
    assert lines["op_schema"]["silent_error"] == {"passed": 0, "failed": 0, "not_run": 0, NOT_REACHED: 2}
    assert lines["op_schema"]["accepted"]["passed"] == 4
    assert lines["numerics"]["silent_error"]["failed"] == 2


def test_stages_of_the_matrix_are_in_order():
    stages = [stage for stage, _, _ in summary_of(records()).matrix()]
    assert stages == sorted(stages, key=["build", "smoke", "verify", "integrate", "profile"].index)


def test_speed_of_light_time():
    timing = realistic().timings[0]
    assert speed_of_light_us(timing) == pytest.approx(1412.7 * 0.71)
    assert speed_of_light_us(realistic().timings[2]) is None
    assert speed_of_light_us(msgspec.structs.replace(timing, speed_of_light=float("nan"))) is None


def test_the_command_writes_a_page_beside_the_log(log, capsys):
    assert report(log) == 0
    page = log.with_suffix(".html")
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    for words in ("int fast = 1 &lt; 2;", "row 3 &lt;is&gt; wrong", "no. 4", "1.31x", "1.27 to 1.36", "the host went away", "10 evalua"):
        assert words in text
    assert "int slow" not in text


def test_one_run_of_several(log, tmp_path, capsys):
    assert report(log, run="two", out=tmp_path / "new" / "two.html") == 0
    text = (tmp_path / "new" / "two.html").read_text()
    assert "5 evaluations" in text
    assert "<h3>Runs</h3>" not in text
    with pytest.raises(Problem, match="holds no evaluation of the run 'three'; runs in it: one, two"):
        report(log, run="three")


@pytest.mark.parametrize(("content", "words"), [
    (None, "cannot be read"), (b"", "holds no evaluation"), (b"torn\n", "holds no evaluation"), (b'{"schema_version": 99}\n', "line 1"),
])
def test_logs_that_cannot_be_used(tmp_path, content, words):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Problem, match=words):
        report(path)
    assert not path.with_suffix(".html").exists()


def test_a_torn_line_is_said_on_the_page(log, capsys):
    with open(log, "ab") as file:
        file.write(b'{"schema_version": 1, "id"')
    assert report(log) == 0
    assert "skipped 1 torn or invalid line" in capsys.readouterr().err
    assert "skipped 1 torn or invalid line" in log.with_suffix(".html").read_text()


def test_the_log_is_not_overwritten(log):
    before = log.read_bytes()
    with pytest.raises(Problem, match="would overwrite the log"):
        report(log, out=log)
    with pytest.raises(Problem, match="cannot be written"):
        report(log, out=log.parent)
    assert log.read_bytes() == before


def test_names_of_pages():
    assert [page_path(Path(name)).name for name in ("a.jsonl", "a.b.jsonl.xz", "a", ".jsonl", "c.gz")] == [
        "a.html", "a.b.html", "a.html", "report.html", "c.html",
    ]


def test_long_logs_make_small_pages():
    found = records()
    summary = summary_of(
        msgspec.structs.replace(found[index % 5], context=Context(policy_step=index // 20), reason="x" * 5000) for index in range(3000)
    )
    text = report_page(summary, "long", "production")
    assert len(text) < 1_500_000
    assert text.count("x" * 100) <= 4 * LAST


def test_steps_without_records_do_not_break_the_curve_of_scores():
    """Of a log that keeps every eighth step; a point between two gaps would not be drawn at all."""
    rows = [row._replace(step=step) for step in range(0, 80, 8) for row in summary_of(records()).rows]
    bins = _score_bins(rows, [row.step for row in rows])
    assert [start for start, _ in bins] == list(range(0, 80, 8))
    assert all(scores for _, scores in bins)


def test_a_log_without_timings_or_checks():
    text = report_page(summary_of([bare(Outcome.REJECTED)]), "bare", "production")
    for words in ("No accepted kernel was timed.", "No check was recorded.", "No times were recorded.", "none was accepted"):
        assert words in text


@in_browser
@pytest.mark.parametrize("width", [1200, 800])
def test_in_a_browser(log, width):
    report(log)
    seen = browser["check"](log.with_suffix(".html"), SECTIONS, width)
    assert seen.title == "Evaluations in run.jsonl"
    assert len(seen.pictures) == 5
    assert "Runs" in seen.text
    assert "int fast" not in seen.text, "code is folded"


@in_browser
def test_the_browser_sees_what_must_not_be(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<script>console.error("no")</script><img src="other.png"><svg id="a"></svg><svg id="a"></svg>')
    seen = browser["look"](page)
    assert (len(seen.console), seen.repeated, seen.requests[0]) == (1, ["a"], "/other.png")
    with pytest.raises(AssertionError):
        browser["check"](page)


def test_nothing_heavy_is_imported(log):
    program = (
        "import sys\nfrom fastkernels_env.cli import run\nstatus = run(['report', sys.argv[1]])\n"
        "print([name for name in ('torch', 'ray', 'pandas') if name in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", program, log], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.stdout == f"{log.with_suffix('.html')}\n[] 0\n", done.stderr


def test_records_of_a_writer_under_way(tmp_path):
    append_record(tmp_path / "run.jsonl", realistic())
    assert report(tmp_path / "run.jsonl") == 0
