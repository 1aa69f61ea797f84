"""The command line as a person or a script meets it: real processes, their output, their exit status."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastkernels_env import read_log
from fastkernels_env.checks import CHECKS
from fastkernels_env.device import cuda_present
from fastkernels_env.types import Outcome

COMMAND = [sys.executable, "-m", "fastkernels_env"]
SECONDS = 180
RIGHT = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input * weight * factor)\n"
WRONG = "def tiny_scale(out, input, weight, factor):\n    out.copy_(input)\n"
HANGING = "import time\n\n\ndef tiny_scale(out, input, weight, factor):\n    time.sleep(600)\n"


@pytest.fixture
def environment(tiny_root, tmp_path):
    """Finds the quick task; temporary files end up in a folder of the test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return {**os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "TMPDIR": str(folder), "COLUMNS": "100"}


@pytest.fixture
def cli(environment):
    """Run a command line to its end: exit status, standard output, standard error."""

    def run(*arguments, stdin=b"", **options):
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], input=stdin, env=options.pop("env", environment), timeout=SECONDS,
            stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, **options,
        )
        return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()

    return run


@pytest.fixture
def submission(tmp_path):
    def write(text):
        path = tmp_path / "submission.py"
        path.write_text(text)
        return path

    return write


def is_one_sentence(text):
    return text.startswith("fastkernels-env: ") and text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


# -- what needs no judge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], [], ["evaluate", "--help"]])
def test_help(cli, arguments):
    status, out, err = cli(*arguments)
    assert (status, err) == (0, "")
    assert "evaluate" in out


def test_version(cli):
    from importlib.metadata import version

    assert cli("--version") == (0, f"fastkernels-env {version('fastkernels-env')}\n", "")


JUDGE = ["evaluate", "tiny_scale", "right.py"]
BAD = {
    "unknown_command": (["evalute"], ["evalute"]),
    "no_task": (["evaluate"], ["TASK"]),
    "no_file": (["evaluate", "tiny_scale"], ["FILE"]),
    "unknown_option": ([*JUDGE, "--fast"], ["--fast"]),
    "unknown_task": (["evaluate", "tiny_scal", "right.py"], ["'tiny_scal'", "did you mean tiny_scale?"]),
    "task_like_none": (["show", "zzz"], ["'zzz'", "known are", "rms_norm"]),
    "task_to_warm": (["warm", "rms_norn"], ["'rms_norn'", "rms_norm"]),
    "missing_file": (["evaluate", "tiny_scale", "absent.py"], ["absent.py", "No such file", "standard input"]),
    "folder": (["evaluate", "tiny_scale", "."], [". is a folder"]),
    "not_text": (["evaluate", "tiny_scale", "binary"], ["binary is not UTF-8 text", "byte 4"]),
    "endless_file": (["evaluate", "tiny_scale", "/dev/zero"], ["/dev/zero", "64 MiB"]),
    "unknown_device": ([*JUDGE, "--device", "tpu"], ["'tpu'", "cpu", "cuda"]),
    "unknown_effort": ([*JUDGE, "--effort", "lazy"], ["'lazy'", "quick", "full"]),
    "seed": ([*JUDGE, "--seed", "one"], ["--seed", "integer"]),
    "unknown_reward": ([*JUDGE, "--reward", "richest"], ["'richest'", "production"]),
    "missing_preset": ([*JUDGE, "--reward", "absent.toml"], ["absent.toml", "cannot be read"]),
    "broken_preset": ([*JUDGE, "--reward", "preset.toml"], ["preset.toml", "bounds"]),
    "log_is_a_folder": ([*JUDGE, "--log", "."], ["log . ", "another file"]),
    "log_below_a_file": ([*JUDGE, "--log", "right.py/log.jsonl"], ["log.jsonl", "another file"]),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_arguments(cli, tmp_path, case):
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    (tmp_path / "preset.toml").write_text("summary = 'no parts'\n")
    arguments, words = BAD[case]
    status, out, err = cli(*arguments, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert is_one_sentence(err), err
    assert [word for word in words if word not in err] == []


@pytest.mark.skipif(cuda_present(), reason="this host has a GPU")
@pytest.mark.parametrize("command", ["evaluate", "show", "warm", "demo"])
def test_cuda_on_a_host_without_a_gpu(cli, submission, command):
    arguments = {"evaluate": ["tiny_scale", submission(RIGHT)], "show": ["tiny_scale"], "warm": [], "demo": []}[command]
    status, out, err = cli(command, *arguments, "--device", "cuda")
    assert (status, out) == (2, "")
    assert is_one_sentence(err), err
    assert "'cuda'" in err
    assert "'cpu'" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(cli, submission):
    path = submission(RIGHT)
    path.chmod(0)
    status, _, err = cli("evaluate", "tiny_scale", path)
    assert status == 2
    assert is_one_sentence(err)
    assert "Permission denied" in err


def test_closed_standard_input(environment):
    shell = f"exec {sys.executable} -m fastkernels_env evaluate tiny_scale - <&-"
    done = subprocess.run(["sh", "-c", shell], env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr), done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "nothing", "x"], ["evaluate", "rms_norm", "/absent"], ["evaluate"]])
def test_answers_without_torch(environment, arguments):
    timed = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    imported = {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines() if line.startswith("import time:")}
    assert "fastkernels_env.cli" in imported
    assert "torch" not in imported


# -- tasks -------------------------------------------------------------------------------------------------------------------


def test_list_json(cli):
    from fastkernels_env.registry import task_folders

    status, out, err = cli("list", "--json")
    assert (status, err) == (0, "")
    tasks = {task["name"]: task for task in json.loads(out)}
    assert set(tasks) == {*task_folders(), "tiny_scale"}
    assert {*tasks["tiny_scale"]} == {"name", "id", "level", "category", "devices", "summary"}
    assert tasks["tiny_scale"]["devices"] == ["cpu"]
    assert tasks["rms_norm"]["devices"] == ["cpu", "cuda"]
    assert tasks["rms_norm"]["id"] == "FastKernels/rms_norm-v0"


def test_list_goes_on_past_a_broken_task(cli, environment, tmp_path, task_files):
    task_files(tmp_path / "tasks" / "broken_one", task="raise RuntimeError('not today')")
    task_files(tmp_path / "tasks" / "tiny_scale")
    status, out, err = cli("list", env={**environment, "FASTKERNELS_ENV_PATH": str(tmp_path / "tasks")})
    assert status == 3
    assert is_one_sentence(err), err
    assert "'broken_one'" in err
    assert "not today" in err
    assert "tiny_scale" in out
    assert "rms_norm" in out


def test_show_prints_the_prompt_and_nothing_else_on_standard_output(cli):
    from fastkernels_env import build_prompt, load_task

    status, out, err = cli("show", "rms_norm", "--device", "cpu")
    assert status == 0
    assert out == build_prompt(load_task("rms_norm"), "cpu")
    assert "cpu.cpp" in err
    assert "eager" in err
    assert "flashinfer" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_cannot_be_written(cli):
    with open("/dev/full", "wb") as full:
        status, _, err = cli("list", stdout=full)
    assert status == 3
    assert is_one_sentence(err), err
    assert "No space left" in err


def test_broken_pipe_is_quiet(environment, submission, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log.jsonl"
    arguments = ["evaluate", "tiny_scale", str(submission("nothing")), "--log", str(log)]
    done = subprocess.run([*COMMAND, *arguments], env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=SECONDS)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    assert [record.outcome for record in read_log(log)] == [Outcome.REJECTED]


# -- evaluate ----------------------------------------------------------------------------------------------------------------


def assert_contract(data):
    """The public JSON object: exactly these keys, with these types."""
    assert list(data) == [
        "schema_version", "task", "device", "outcome", "reward", "checks", "speedup", "baseline", "timings", "seconds", "feedback",
    ]
    assert data["outcome"] in list(Outcome)
    assert list(data["reward"]) == ["total", "parts"]
    assert [check["name"] for check in data["checks"]] == [spec.name for spec in CHECKS]
    assert all(list(check) == ["name", "stage", "status", "evidence", "detail"] for check in data["checks"])
    assert {check["status"] for check in data["checks"]} <= {"passed", "failed", "not_run"}
    assert data["speedup"] is None or list(data["speedup"]) == ["estimate", "low", "high"]
    assert all(list(timing) == ["workload", "candidate_us", "baselines", "speed_of_light"] for timing in data["timings"])
    assert all(isinstance(value, float) for value in data["seconds"].values())
    assert isinstance(data["feedback"], str)


def test_two_at_once_into_one_log(environment, submission, tmp_path):
    """One prints JSON, the other a report for people; both are accepted and both records are whole."""
    log = tmp_path / "logs" / "log.jsonl"
    arguments = ["evaluate", "tiny_scale", str(submission(RIGHT)), "--effort", "quick", "--device", "cpu", "--log", str(log)]
    running = [
        subprocess.Popen([*COMMAND, *arguments, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for more in (["--json", "--seed", "7"], ["--seed", "8"])
    ]
    (json_out, json_err), (out, err) = (process.communicate(timeout=SECONDS) for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert (json_err, err) == ("", "")

    assert json_out.count("\n") == 1
    data = json.loads(json_out)
    assert_contract(data)
    assert (data["task"], data["device"], data["outcome"]) == ("tiny_scale", "cpu", "accepted")
    assert data["reward"]["total"] == pytest.approx(sum(data["reward"]["parts"].values()))
    assert [timing["workload"] for timing in data["timings"]] == ["whole"]
    assert data["baseline"]["used"] == ["eager"]
    assert {"build", "smoke", "verify", "profile"} <= set(data["seconds"])

    assert "ACCEPTED" in out
    assert "tiny_scale on cpu" in out
    assert max(map(len, out.splitlines())) <= 100

    records = {record.seed: record for record in read_log(log)}
    assert set(records) == {7, 8}
    assert records[7].outcome is Outcome.ACCEPTED
    assert records[7].rewards["production"].total == data["reward"]["total"]
    assert records[7].text == RIGHT


UNJUDGEABLE = {
    "empty": (b"", "empty text"),
    "five_megabytes": (b"x" * (5 << 20), "5,242,880"),
    "nul": (RIGHT.encode() + b"\0", "NUL byte"),
    "truncated": (b"Here it is:\n```python\ndef tiny_scale(", "not: the reply was cut off"),
    "wrong_arguments": (b"def tiny_scale(x, y):\n    pass\n", "exactly these argument names"),
}


@pytest.mark.parametrize("case", UNJUDGEABLE)
def test_text_without_usable_code_is_rejected(cli, tmp_path, case):
    text, words = UNJUDGEABLE[case]
    log = tmp_path / "log.jsonl"
    status, out, err = cli("evaluate", "tiny_scale", "-", "--device", "cpu", "--json", "--log", log, stdin=text)
    assert (status, err) == (1, "")
    data = json.loads(out)
    assert_contract(data)
    assert data["outcome"] == "rejected"
    assert data["speedup"] is None
    assert words in data["feedback"]
    assert read_log(log)[0].text == text.decode()


def test_reply_with_two_blocks_of_which_one_is_wrong(cli):
    reply = f"First:\n```python\n{RIGHT}```\nNo, rather:\n```python\n{WRONG}```\n"
    status, out, _ = cli("evaluate", "tiny_scale", "-", "--device", "cpu", "--effort", "quick", "--json", stdin=reply.encode())
    assert status == 1
    assert json.loads(out)["outcome"] == "wrong"


def test_task_with_a_broken_oracle_is_a_fault_that_names_it(cli, environment, submission, tmp_path, task_files):
    broken = task_files.texts["task"].replace('args["factor"]}', 'args["facto"]}')
    assert broken != task_files.texts["task"]
    task_files(tmp_path / "tasks" / "tiny_scale", task=broken)
    environment["FASTKERNELS_ENV_PATH"] = str(tmp_path / "tasks")
    log = tmp_path / "log.jsonl"
    status, out, err = cli("evaluate", "tiny_scale", submission(RIGHT), "--device", "cpu", "--effort", "quick", "--json", "--log", log)
    assert status == 3
    assert is_one_sentence(err), err
    assert "'tiny_scale'" in err
    assert "facto" in err
    data = json.loads(out)
    assert_contract(data)
    assert data["outcome"] == "fault"
    assert data["reward"] == {"total": None, "parts": {}}
    assert read_log(log)[0].outcome is Outcome.FAULT


def test_task_that_cannot_be_imported(cli, environment, submission, tmp_path, task_files):
    task_files(tmp_path / "tasks" / "tiny_scale", task="import nothing_of_that_name")
    environment["FASTKERNELS_ENV_PATH"] = str(tmp_path / "tasks")
    status, out, err = cli("evaluate", "tiny_scale", submission(RIGHT))
    assert (status, out) == (3, "")
    assert is_one_sentence(err), err
    assert "'tiny_scale'" in err
    assert "nothing_of_that_name" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_on_a_full_disk_loses_nothing(cli, environment):
    status, out, err = cli("evaluate", "tiny_scale", "-", "--json", "--log", "/dev/full", stdin=b"nothing")
    assert status == 3
    assert is_one_sentence(err), err
    assert "No space left" in err
    assert json.loads(out)["outcome"] == "rejected"
    (saved,) = Path(environment["TMPDIR"]).glob("*.jsonl")
    assert str(saved) in err
    assert read_log(saved)[0].text == "nothing"


def test_reward_that_raises_costs_no_record(cli, environment, submission, tmp_path):
    (tmp_path / "own_terms.py").write_text(
        "from fastkernels_env.reward import term\n\n\n@term\ndef moody(evaluation):\n    raise ValueError('not in the mood')\n"
    )
    preset = tmp_path / "moody.toml"
    preset.write_text('summary = "s"\nbounds = [0.0, 1.0]\nmodules = ["own_terms"]\n\n[parts.mood]\nterm = "moody"\n')
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    log = tmp_path / "log.jsonl"
    status, out, err = cli("evaluate", "tiny_scale", submission("nothing"), "--json", "--reward", preset, "--log", log)
    assert status == 3
    assert is_one_sentence(err), err
    assert "not in the mood" in err
    assert json.loads(out)["reward"]["total"] is None
    assert read_log(log)[0].outcome is Outcome.REJECTED


def test_missing_compiler_is_not_the_submissions_fault(cli, environment, task_files, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    source = tmp_path / "kernel.cpp"
    source.write_text(task_files.texts["cpu"])
    status, out, err = cli(
        "evaluate", "tiny_scale", source, "--device", "cpu", "--effort", "quick", "--json", env={**environment, "PATH": str(programs)}
    )
    assert status == 3
    assert is_one_sentence(err), err
    assert "C++ compiler" in err
    assert json.loads(out)["outcome"] == "fault"


# -- interruption ------------------------------------------------------------------------------------------------------------


def processes():
    """Parent and start time of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def descendants(pid):
    """Every process below `pid`, with its start time: ids are used again."""
    everything, found, added = processes(), {}, {pid}
    while added:
        added = {child for child, (parent, _) in everything.items() if parent in added}
        found |= {child: everything[child][1] for child in added}
    return found


def wait_until(condition, what, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


def start_interruptible(arguments, environment):
    """A command that may be interrupted even where this process may not: a shell starts what runs in its background that way."""
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_evaluation(environment, submission, tmp_path, number):
    """Workers and scratch folders are gone, the log holds one whole line, the exit status is the signal's."""
    log = tmp_path / "log.jsonl"
    hanging = HANGING.replace("    time.sleep", "    open('started', 'w').close()\n    time.sleep")  # in its own folder: it sees no other
    arguments = ["evaluate", "tiny_scale", str(submission(hanging)), "--device", "cpu", "--json", "--log", str(log)]
    process = start_interruptible(arguments, environment)
    try:
        cwd = "/proc/{}/cwd/started".format
        wait_until(lambda: any(os.path.exists(cwd(pid)) for pid in descendants(process.pid)), "the submission's first call")
        below = descendants(process.pid)
        assert len(below) >= 2  # the fork server and a worker
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err) == (128 + number, "fastkernels-env: interrupted\n")
    assert out == ""
    assert [(record.outcome, record.reason, record.text) for record in read_log(log)] == [(Outcome.FAULT, "interrupted", hanging)]
    assert not any(processes().get(pid, (0, ""))[1] == start for pid, start in below.items())
    assert list(Path(environment["TMPDIR"]).glob("fastkernels-*")) == []


def test_interruption_does_not_wait_for_a_baseline_that_is_starting(environment, submission, tmp_path, task_files):
    started = tmp_path / "started"
    eager = f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(600)\ndef tiny_scale(out, input, weight, factor):\n    pass\n"
    task_files(tmp_path / "tasks" / "tiny_scale", eager=eager)
    environment["FASTKERNELS_ENV_PATH"] = str(tmp_path / "tasks")
    arguments = ["evaluate", "tiny_scale", str(submission(RIGHT)), "--device", "cpu", "--effort", "quick"]
    process = start_interruptible(arguments, environment)
    try:
        wait_until(started.exists, "the start of the baseline")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "fastkernels-env: interrupted\n")
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert list(Path(environment["TMPDIR"]).glob("fastkernels-*")) == []


# -- a terminal --------------------------------------------------------------------------------------------------------------


def test_status_line_on_a_terminal_names_the_stage(environment, submission):
    slow = f"import time\n\ntime.sleep(1)\n\n\n{RIGHT}"  # it is loaded at the beginning of the smoke stage
    primary, secondary = pty.openpty()
    arguments = ["evaluate", "tiny_scale", str(submission(slow)), "--device", "cpu", "--effort", "quick", "--json"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], env={**environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=secondary, stdin=subprocess.DEVNULL
    )
    os.close(secondary)
    shown = b""
    while select.select([primary], [], [], SECONDS)[0]:
        try:
            chunk = os.read(primary, 4096)
        except OSError:  # the other end is closed
            break
        shown += chunk
    os.close(primary)
    out = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0
    assert json.loads(out)["outcome"] == "accepted"
    text = shown.decode()
    assert "judging tiny_scale on cpu" in text
    assert ": smoke" in text


@pytest.mark.skipif(shutil.which("fastkernels-env") is None, reason="the package is not installed with its script")
def test_console_script():
    done = subprocess.run(["fastkernels-env", "evaluate", "nothing", "x"], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr)
