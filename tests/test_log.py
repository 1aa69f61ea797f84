"""The evaluation log, written by real processes."""

import bz2
import gzip
import json
import lzma
import math
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fastkernels_env._arguments import check_log
from fastkernels_env._terminal import Problem
from fastkernels_env.log import LogError, append_record, encode_record, iter_log, read_log
from fastkernels_env.types import SCHEMA_VERSION, Outcome, Speedup, to_dict

strategies = runpy.run_path(str(Path(__file__).parent / "reward" / "strategies.py"))
bare, realistic, evaluations = strategies["bare"], strategies["realistic"], strategies["evaluations"]

WRITER = """
    import runpy, sys
    from fastkernels_env.log import append_record
    from fastkernels_env.types import Outcome
    bare = runpy.run_path(sys.argv[1])["bare"]
    path, name = sys.argv[2:]
"""


def start(body, *args):
    """A Python process that runs `body` after the writer's imports."""
    code = textwrap.dedent(WRITER) + textwrap.dedent(body)
    source = Path(__file__).parent / "reward" / "strategies.py"
    return subprocess.Popen([sys.executable, "-c", code, source, *map(str, args)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "evaluations.jsonl"


@pytest.fixture(autouse=True)
def temp_folder(tmp_path, monkeypatch):
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(evaluations(), evaluations())
def test_round_trip(log, first, second):
    log.unlink(missing_ok=True)
    append_record(log, first)
    append_record(log, second)
    assert read_log(log) == [first, second]


def test_the_folder_is_made(tmp_path):
    path = tmp_path / "runs" / "a" / "log.jsonl"
    append_record(path, realistic())
    assert read_log(str(path)) == [realistic()]


def test_lines_are_plain_json_for_other_tools(log):
    append_record(log, realistic())
    line = json.loads(log.read_text())
    assert line == json.loads(json.dumps(to_dict(realistic())))
    assert line["schema_version"] == SCHEMA_VERSION


def test_numbers_and_text_that_json_cannot_hold(log):
    speedup = Speedup(estimate=math.nan, low=-math.inf, high=math.inf, worst=1.0, worst_workload="nan")
    append_record(log, bare(Outcome.WRONG, speedup=speedup, text="a\ud800b", code="\0\u2028é"))
    back = read_log(log)[0]
    assert math.isnan(back.speedup.estimate)
    assert (back.speedup.low, back.speedup.high, back.speedup.worst_workload) == (-math.inf, math.inf, "nan")
    assert (back.text, back.code) == ("a\\ud800b", "\0\u2028é")


def test_numpy_numbers_are_written_as_numbers(log):
    numpy = pytest.importorskip("numpy")
    append_record(log, bare(Outcome.WRONG, workloads_right=numpy.float64(0.5), seconds={"build": numpy.float32(2)}))
    assert read_log(log) == [bare(Outcome.WRONG, workloads_right=0.5, seconds={"build": 2.0})]


def test_four_writers(log):
    body = "for turn in range(50): append_record(path, bare(Outcome.WRONG, feedback=name, text='x' * 20_000, seconds={'n': turn}))"
    writers = [start(body, log, name) for name in "abcd"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if log.exists():
            count = len(read_log(log))
            assert count >= seen
            seen = count
        time.sleep(0.02)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    turns = {name: [record.seconds["n"] for record in read_log(log) if record.feedback == name] for name in "abcd"}
    assert turns == {name: list(range(50)) for name in "abcd"}


def test_full_device(temp_folder):
    with pytest.raises(LogError, match=r"/dev/full: .*No space left on device.*saved in") as caught:
        append_record("/dev/full", realistic())
    assert caught.value.saved.parent == temp_folder
    assert str(caught.value.saved) in str(caught.value)
    assert read_log(caught.value.saved) == [realistic()]


def test_full_device_and_no_temp_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(LogError, match=r"is lost, because it could not be saved") as caught:
        append_record("/dev/full", realistic())
    assert caught.value.saved is None


def test_a_disk_that_fills_up_half_way_through_a_line(log):
    append_record(log, realistic())
    whole = log.read_bytes()
    body = f"""
        import resource, tempfile
        from pathlib import Path
        # Room for half a line more: the kernel writes that much, then refuses.
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole)} + 500, resource.RLIM_INFINITY))
        tempfile.tempdir = name
        try:
            append_record(path, bare(Outcome.WRONG, text="x" * 2000))
        except Exception as error:
            print(type(error).__name__, error)
    """
    out, _ = start(body, log, log.parent / "temp").communicate()
    assert out.startswith("LogError")
    assert "File too large" in out
    assert log.read_bytes() == whole
    append_record(log, bare(Outcome.WRONG))
    assert read_log(log) == [realistic(), bare(Outcome.WRONG)]


def test_a_killed_writer(log):
    body = """
        import os, time
        import fastkernels_env.log as module
        def torn(fd, data):
            os.write(fd, data[:100])
            print("torn", flush=True)
            time.sleep(60)
        module._write = torn
        append_record(path, bare(Outcome.CRASHED))
    """
    append_record(log, bare(Outcome.WRONG))
    writer = start(body, log, "killed")
    assert writer.stdout.readline() == "torn\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert log.read_bytes()[-1:] != b"\n"
    append_record(log, realistic())
    with pytest.raises(LogError, match=r"evaluations\.jsonl: line 2 is torn or no evaluation"):
        read_log(log)
    with pytest.warns(UserWarning, match="skipped 1 torn or invalid line$"):
        assert read_log(log, strict=False) == [bare(Outcome.WRONG), realistic()]


def test_a_reader_waits_for_the_line_in_hand(log):
    body = """
        import os, time
        import fastkernels_env.log as module
        def slow(fd, data):
            os.write(fd, data[:100])
            print("half", flush=True)
            time.sleep(0.5)
            os.write(fd, data[100:])
        module._write = slow
        append_record(path, bare(Outcome.WRONG))
    """
    with start(body, log, "slow") as writer:
        assert writer.stdout.readline() == "half\n"
        assert read_log(log) == [bare(Outcome.WRONG)]


def test_ctrl_c_in_the_middle_of_a_write(log, monkeypatch):
    append_record(log, bare(Outcome.WRONG))
    write = os.write

    def interrupted(at):
        def interrupt(fd, data):
            write(fd, data[:at])
            raise KeyboardInterrupt
        return interrupt

    monkeypatch.setattr(os, "write", interrupted(100))
    with pytest.raises(KeyboardInterrupt):
        append_record(log, realistic())
    assert read_log(log) == [bare(Outcome.WRONG)]
    monkeypatch.setattr(os, "write", interrupted(None))
    with pytest.raises(KeyboardInterrupt):
        append_record(log, realistic())
    assert read_log(log) == [bare(Outcome.WRONG), realistic()]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/proc/version")])
def test_what_cannot_be_a_log(log, make):
    make(log)
    with pytest.raises(LogError, match="could not be logged") as caught:
        append_record(log, realistic())
    assert read_log(caught.value.saved) == [realistic()]


def test_reading_what_is_no_log(log):
    with pytest.raises(LogError, match=r"cannot be read: No such file"):
        read_log(log)
    with pytest.raises(LogError, match=r"/dev/full: the log cannot be read: expected a file or a pipe"):
        read_log("/dev/full")


def lines(log, *extra):
    log.write_bytes(encode_record(bare(Outcome.WRONG)) + b"".join(extra) + encode_record(realistic()))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("version", "says"), [(SCHEMA_VERSION + 1, "newer than version"), (0, "this library reads version")])
def test_other_versions_are_refused(log, strict, version, says):
    lines(log, b'{"schema_version": %d, "anything": []}\n' % version)
    reading = iter_log(log, strict=strict)
    assert next(reading) == bare(Outcome.WRONG)
    with pytest.raises(LogError, match=rf"evaluations\.jsonl: line 2 has schema version {version}, .*{says}"):
        next(reading)


@pytest.mark.parametrize(
    "line",
    [
        b"{\n", b'{"id": "no version"}\n', b'{"schema_version": 1}\n', b"\0\0\0\n", b'"\xff"\n', b"[]\n",
        b'{"schema_version": "1"}\n',
        encode_record(realistic()).replace(b'"accepted"', b'"splendid"'),
        encode_record(realistic()).replace(b'"seed":', b'"seed":"7","old":'),
    ],
)
def test_invalid_lines(log, line):
    lines(log, line, b"\n", line)
    with pytest.raises(LogError, match="line 2 is torn or no evaluation"):
        read_log(log)
    with pytest.warns(UserWarning, match="skipped 2 torn or invalid lines$"):
        assert read_log(log, strict=False) == [bare(Outcome.WRONG), realistic()]


def test_fields_of_later_versions_are_ignored(log):
    lines(log, encode_record(realistic()).replace(b'{"schema_version"', b'{"added_later":[1],"schema_version"'))
    assert read_log(log) == [bare(Outcome.WRONG), realistic(), realistic()]


def test_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = start("append_record(path, bare(Outcome.WRONG))", pipe, "")
    assert read_log(pipe) == [bare(Outcome.WRONG)]
    assert writer.wait() == 0
    writer.stdout.close()


# -- compressed logs -----------------------------------------------------------------------------------------------------------

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def compressed(log, suffix, keep=1.0):
    """A log of 40 records in that format, cut to a share of its bytes."""
    data = COMPRESS[suffix](b"".join(encode_record(bare(Outcome.WRONG, seconds={"n": n}, text=os.urandom(400).hex())) for n in range(40)))
    path = log.with_name(log.name + suffix)
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_logs_are_read_by_their_name(log, suffix):
    path = compressed(log, suffix)
    assert [record.seconds["n"] for record in read_log(path)] == list(range(40))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_torn_compressed_log(log, suffix):
    path = compressed(log, suffix, keep=0.8)
    with pytest.raises(LogError, match=rf"evaluations\.jsonl\{suffix}: the compressed log is torn or damaged .*strict=False"):
        read_log(path)
    with pytest.warns(UserWarning, match="skipped 1 torn or invalid line$"):
        read = read_log(path, strict=False)
    assert [record.seconds["n"] for record in read] == list(range(len(read)))
    assert len(read) < 40


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_only_has_the_name_of_a_compressed_log(log, suffix):
    path = log.with_name(log.name + suffix)
    path.write_bytes(encode_record(realistic()))
    with pytest.raises(LogError, match=rf"evaluations\.jsonl\{suffix}: the (log cannot be read|compressed log is torn or damaged)"):
        read_log(path)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_nothing_is_appended_to_a_compressed_log(log, suffix):
    path = compressed(log, suffix)
    before = path.read_bytes()
    with pytest.raises(LogError, match="records are appended to plain files only") as caught:
        append_record(path, realistic())
    assert path.read_bytes() == before
    assert read_log(caught.value.saved) == [realistic()]


def test_the_command_line_refuses_a_compressed_log_before_it_judges(tmp_path):
    with pytest.raises(Problem, match=r"records are appended to plain files only; name one without \.gz"):
        check_log(tmp_path / "log.jsonl.gz")
    assert list(tmp_path.glob("*.gz")) == []
