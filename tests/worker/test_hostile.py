"""Submissions that do their worst to the process they run in: the evaluator survives, and nothing of them is left."""

from __future__ import annotations

import gc
import os
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from fastkernels_env import Evaluator, Outcome
from fastkernels_env.judge import matrix, profile, scope

CODE = """
    import array, ctypes, os, resource, signal, socket, struct, sys, threading, time
    import torch

    started = []

    def honest(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)

    def sockets(kind):
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                end = socket.socket(fileno=os.dup(int(fd)))
            except OSError:
                continue
            if end.type == kind:
                found.append(end)
            else:
                end.close()
        return found

    def channel():
        return sockets(socket.SOCK_STREAM)[0]

    def clock():
        return sockets(socket.SOCK_SEQPACKET)[0]

    def in_background(function):
        if not started:
            started.append(threading.Thread(target=function, daemon=True))
            started[0].start()
"""
ENTRY = "def tiny_scale(out, input, weight, factor):"


def python(body, outside=""):
    parts = [textwrap.dedent(CODE), textwrap.dedent(outside), ENTRY, textwrap.indent(textwrap.dedent(body).strip(), "    ")]
    return "```python\n" + "\n".join(parts) + "\n```"


HONEST = python("honest(out, input, weight, factor)")


class Traces:
    """What an evaluation may leave behind on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def now(self) -> dict[str, int]:
        gc.collect()  # the frames of an exception may hold on to memory until then
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                continue  # the listing's own descriptor
        kinds = [link.split(":")[0] for link in links]
        return {
            "descriptors": len(links), "memory files": kinds.count("/memfd"), "sockets": kinds.count("socket"),
            "folders": len(list(self.folder.iterdir())), "processes": len(self.processes()),
        }

    def processes(self) -> list[int]:
        """Living processes whose working folder lies in ours: a worker's own one, and whatever it started."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    inside = os.readlink(entry / "cwd").startswith(str(self.folder))
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if inside and state != "Z":
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, host_cache, tiny_root):
    """An evaluator whose temporary files lie in a folder of their own; both are empty in the end."""
    folder = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("FASTKERNELS_ENV_PATH", str(tiny_root))
        patch.setenv("A_SECRET_OF_THE_CALLER", "not for submissions")
        traces = Traces(folder)
        descriptors = traces.now()["descriptors"]
        with Evaluator("cpu", effort="quick") as evaluator:
            assert evaluator.evaluate("tiny_scale", HONEST).outcome is Outcome.ACCEPTED
            yield evaluator, traces
        assert traces.now()["folders"] == traces.now()["processes"] == 0
        assert traces.now()["descriptors"] <= descriptors + 1


@pytest.fixture
def hit(place, tiny, monkeypatch):
    """Judges a hostile submission, then an honest one; returns the hostile one's record."""
    evaluator, traces = place
    monkeypatch.setattr(matrix, "FIRST_CALL_SECONDS", 2.0)
    monkeypatch.setattr(scope, "CALL_SECONDS", 2.0)
    monkeypatch.setattr(profile, "BLOCK_SECONDS", 2.0)

    def hit(text, task="tiny_scale"):
        before = traces.now()
        evaluation = evaluator.evaluate(task, text)
        after = evaluator.evaluate(task, HONEST)
        assert after.outcome is Outcome.ACCEPTED, after.reason
        assert traces.now() == before
        return evaluation

    return hit


ENDINGS = {
    "a segmentation fault": ("ctypes.string_at(0)", "killed by SIGSEGV"),
    "an abort": ("os.abort()", "killed by SIGABRT"),
    "a kill": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    "a termination": ("os.kill(os.getpid(), signal.SIGTERM)", "killed by SIGTERM"),
    "a signal without a name": ("os.kill(os.getpid(), 40)", "killed by signal 40"),
    "os._exit": ("os._exit(3)", "exited with status 3"),
    "os._exit(0)": ("os._exit(0)", "exited with status 0"),
    "sys.exit": ("sys.exit('enough')", "SystemExit: enough"),
    "an exception": ("raise ValueError('of the submission')", "ValueError: of the submission"),
    "an interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "a deep recursion": ("tiny_scale(out, input, weight, factor)", "RecursionError"),
    "an exception that cannot be shown": (
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute()", "Mute"
    ),
    "an exception that cannot be sent": ("raise ValueError('\\udcff')", ""),
    "an endless message": ("raise ValueError('x' * 10_000_000)", ""),
    "a closed channel": ("channel().shutdown(socket.SHUT_RDWR)\ntime.sleep(60)", "closed its channel"),
    "all descriptors closed": ("os.closerange(3, 100)\ntime.sleep(60)", "closed its channel"),
    "garbage on the channel": ("channel().send(b'\\x04\\0\\0\\0\\xc1\\xc1\\xc1\\xc1')\ntime.sleep(60)", "broke the protocol"),
    "a frame without end": ("channel().send(b'\\xff\\xff\\xff\\xff')\ntime.sleep(60)", "broke the protocol"),
    "deeply nested garbage": (
        "body = b'\\x82\\xa4type\\xa4Done\\xa1x' + b'\\x91' * 500_000 + b'\\x90'\n"
        "channel().sendall(struct.pack('<I', len(body)) + body)\ntime.sleep(60)", "broke the protocol"
    ),
    "thousands of descriptors": (
        "end = channel()\nend.send(struct.pack('<I', 100_000))\n"
        "for _ in range(2000): end.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 16))])\n"
        "time.sleep(60)", "broke the protocol"
    ),
    "its process group killed": ("os.killpg(0, signal.SIGKILL)", "killed by SIGKILL"),
}  # fmt: skip


@pytest.mark.sampled("name", take=7)
@pytest.mark.parametrize("name", ENDINGS)
def test_ending_at_the_first_call_is_a_crash(name, hit):
    body, reason = ENDINGS[name]
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert evaluation.reason.startswith("smoke: ")
    assert reason in evaluation.reason
    assert len(evaluation.reason) < 10_000


IMPORTS = {
    "an exception": ("raise ValueError('at import')", "ValueError: at import"),
    "os._exit": ("os._exit(9)", "exited with status 9"),
    "sys.exit": ("sys.exit(1)", "SystemExit"),
    "a missing module": ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
    "a deleted entry": ("del tiny_scale", "tiny_scale"),
}


@pytest.mark.sampled("name", take=2)
@pytest.mark.parametrize("name", IMPORTS)
def test_ending_at_import_is_a_crash(name, hit):
    line, reason = IMPORTS[name]
    text = HONEST.removesuffix("```") + line + "\n```"
    evaluation = hit(text)
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert reason in evaluation.reason


LATER = {
    "after many calls": "started.append(0)\nif len(started) > 30: os._exit(5)",
    "when it sees other sizes": "if out.shape[0] != 16: os._exit(5)",
    "when there is nothing to do": "if out.shape[0] == 0: os._exit(5)",
}


@pytest.mark.parametrize("name", LATER)
def test_ending_later_is_a_crash_too(name, hit):
    evaluation = hit(python(f"{LATER[name]}\nhonest(out, input, weight, factor)"))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert "exited with status 5" in evaluation.reason
    assert not evaluation.reason.startswith("smoke")


HANGS = {
    "it loops": "while True: pass",
    "it ignores every signal": """
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
    """,
    "it stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "it waits for a child": "os.waitpid(os.fork() or os.pause(), 0)".replace("os.pause()", "time.sleep(1000)"),
}


@pytest.mark.sampled("name", take=2)
@pytest.mark.parametrize("name", HANGS)
def test_never_returning_is_a_time_out(name, hit):
    evaluation = hit(python(textwrap.dedent(HANGS[name])))
    assert evaluation.outcome is Outcome.TIMED_OUT, evaluation.reason
    assert "no answer within 2 s" in evaluation.reason


COMPANY = {
    "a child": "if not started:\n    started.append(0)\n    if os.fork() == 0: time.sleep(1000)",
    "a daemon": """
        if not started:
            started.append(0)
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(1000)
                os._exit(0)
    """,
    "a crowd": """
        if not started:
            started.append(0)
            for _ in range(6):
                if os.fork() == 0:
                    os.setsid()
    """ + "        if len(started) == 1 and os.getpid() != main: time.sleep(1000)\n",
    "threads": "in_background(lambda: time.sleep(1000))",
}  # fmt: skip


@pytest.mark.sampled("name", take=2)
@pytest.mark.parametrize("name", COMPANY)
def test_processes_that_a_submission_starts_end_with_it(name, hit, place):
    body = textwrap.dedent(COMPANY[name])
    evaluation = hit(python(f"{body}\nhonest(out, input, weight, factor)", "main = os.getpid()"))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_the_scan_sees_such_a_process(place, tmp_path):
    """The twin: what the tests above say is not there would be found."""
    _, traces = place
    before = traces.now()["processes"]
    child = os.posix_spawn("/bin/sh", ["sh", "-c", f"cd {traces.folder} && exec sleep 100"], os.environ)
    try:
        for _ in range(100):
            if traces.now()["processes"] == before + 1:
                break
            time.sleep(0.05)
        assert traces.now()["processes"] == before + 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_two_hundred_megabytes_of_output_are_dropped(hit):
    body = """
        if not started:
            started.append(0)
            for _ in range(200): os.write(1, b"x" * (1 << 20))
        honest(out, input, weight, factor)
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert len(evaluation.feedback) < 10_000


def test_files_in_the_scratch_folder_are_removed(hit):
    body = """
        if not started:
            started.append(0)
            os.makedirs("deep/er")
            open("deep/er/file", "w").write("x" * 1000)
            os.symlink("/", "deep/root")
            os.mkfifo("pipe")
            os.chmod("deep", 0)
        honest(out, input, weight, factor)
    """
    assert hit(python(body)).outcome is Outcome.ACCEPTED


MEDDLING = {
    "fills the clock": "in_background(lambda: [clock().send(bytes(8)) for _ in iter(int, 1)])",
    "drains the clock": "in_background(lambda: [clock().recv(8) for _ in iter(int, 1)])",
    "closes the clock": "clock().shutdown(socket.SHUT_RDWR)",
    "starts its own sequences": "in_background(lambda: [clock().send((2**64 - 1).to_bytes(8, 'little')) for _ in iter(int, 1)])",
    "answers for itself": """
        def forge():
            import msgspec
            body = msgspec.msgpack.encode({"type": "Done"})
            while True: channel().send(struct.pack("<I", len(body)) + body)
        in_background(forge)
        time.sleep(0.2)
    """,
    "answers and never works": """
        def forge():
            import msgspec
            body = msgspec.msgpack.encode({"type": "Done"})
            while True: channel().send(struct.pack("<I", len(body)) + body)
        honest(out, input, weight, factor)
        in_background(forge)
        time.sleep(1000)
    """,
}


@pytest.mark.sampled("name", take=3)
@pytest.mark.parametrize("name", MEDDLING)
def test_meddling_with_the_clock_and_the_channel_cannot_hang_the_judge(name, hit):
    evaluation = hit(python(f"{textwrap.dedent(MEDDLING[name])}\nhonest(out, input, weight, factor)"))
    assert evaluation.outcome is not Outcome.FAULT, evaluation.reason


def test_an_answer_of_its_own_does_not_make_a_submission_right(hit):
    body = """
        import msgspec
        reply = msgspec.msgpack.encode({"type": "Done"})
        channel().send(struct.pack("<I", len(reply)) + reply)
        time.sleep(0.2)
    """
    assert hit(python(body)).outcome is Outcome.WRONG


OUTSIDE = {
    "its parent killed": "os.kill(os.getppid(), signal.SIGKILL)",
    "its parent stopped": "os.kill(os.getppid(), signal.SIGSTOP)",
    "its parent interrupted": "os.kill(os.getppid(), signal.SIGINT)",
    "every process that there is killed": """
        try: os.kill(-1, signal.SIGKILL)
        except ProcessLookupError: pass
    """,
    "every process that it can see killed": """
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                os.kill(int(entry), signal.SIGKILL)
    """,
    "every number killed": """
        for number in range(3, 5000):
            try: os.kill(number, signal.SIGKILL)
            except OSError: pass
    """,
}


@pytest.mark.sampled("name", take=3)
@pytest.mark.parametrize("name", OUTSIDE)
def test_signals_reach_nothing_outside(name, hit):
    """Neither what confines it nor a baseline: the submission goes on and is measured against all of them."""
    body = "if not started:\n    started.append(0)\n" + textwrap.indent(textwrap.dedent(OUTSIDE[name]), "    ")
    evaluation = hit(python(f"{body}\nhonest(out, input, weight, factor)"))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert set(evaluation.timings[0].baselines) == {"eager"}


SURROUNDINGS = {
    "nothing of the judge is imported": "not [m for m in sys.modules if m.startswith('fastkernels_env.') and m.split('.')[1] in "
    "('judge', 'evaluator', 'recipes', 'envs', 'reward')]",
    "the caller's environment is not passed on": "'A_SECRET_OF_THE_CALLER' not in os.environ",
    "nor can it read its parent's": "not os.access(f'/proc/{os.getppid()}/environ', os.R_OK)",
    "the working folder is its own and holds its code": "os.listdir('.') == ['submission'] and "
    "os.environ['TMPDIR'] == os.environ['HOME'] == os.getcwd()",
    "input is empty": "os.read(0, 10) == b''",
    "it leads its own session": "os.getsid(0) == os.getpid()",
    "there are no core files": "resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)",
    "one channel, one clock": "(len(sockets(socket.SOCK_STREAM)), len(sockets(socket.SOCK_SEQPACKET))) in ((1, 1), (1, 2))",
}


def test_what_a_submission_finds_around_it(hit):
    checks = "\n".join(f"    assert {holds}, {name!r}" for name, holds in SURROUNDINGS.items())
    evaluation = hit(python(f"if not started:\n    started.append(0)\n{checks}\nhonest(out, input, weight, factor)"))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_what_it_does_not_find(hit):
    """The twin: such an assertion does fail where it does not hold."""
    assert "AssertionError" in hit(python("assert 'HOME' not in os.environ")).reason
