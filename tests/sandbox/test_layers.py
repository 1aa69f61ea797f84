"""The parts of the sandbox by themselves: what is reported, who gets which user id, what a filter and a ruleset deny."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fastkernels_env import Evaluator, Outcome
from fastkernels_env.build import probe_containment
from fastkernels_env.judge.errors import JudgeFault
from fastkernels_env.sandbox import seccomp, slots, tree
from fastkernels_env.sandbox.layers import BUILDS, LAYERS, NETWORK, PROCESS_LAYERS, UID, ContainmentError, Report, merge
from fastkernels_env.sandbox.limits import default_limits
from fastkernels_env.sandbox.linux import MACHINE
from fastkernels_env.sandbox.roots import PACKAGE, find_roots

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def in_child(function):
    """What a forked child that calls `function` exits with."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- reports -------------------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_held_by_what_held_all_of_its_processes():
    whole, weak = Report.of_tree({}), Report.of_tree({NETWORK: "not today"})
    assert whole.active == PROCESS_LAYERS
    assert merge([whole], [whole]) == Report(LAYERS, {})
    assert merge([whole, weak], [whole]).missing == {NETWORK: "not today"}
    assert merge([whole], [weak]).missing == {BUILDS: "compilers ran without: network namespace"}
    assert list(merge([weak], []).missing) == [NETWORK, BUILDS]
    assert merge([], [weak]).missing.keys() == {NETWORK, BUILDS}
    assert merge([], []) == Report((), {})


def test_a_record_without_a_process_claims_no_layer(evaluator, tiny):
    evaluation = evaluator.evaluate("tiny_scale", "no code")
    assert (evaluation.containment, evaluation.missing_containment) == ([], [])


@pytest.fixture
def lacking(monkeypatch):
    """A host on which no user ids are left for submissions."""
    monkeypatch.setenv("FASTKERNELS_UID_BASE", str(2**32 - 10))


def test_a_layer_that_a_host_lacks_is_named_everywhere(lacking, tiny, task_files):
    assert "set FASTKERNELS_UID_BASE" in probe_containment().missing[UID] or os.geteuid() != 0
    with Evaluator("cpu", effort="quick") as evaluator:
        evaluation = evaluator.evaluate("tiny_scale", f"```cpp\n{textwrap.dedent(task_files.texts['cpu'])}```")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert {UID, BUILDS} <= set(evaluation.missing_containment)
    assert UID not in evaluation.containment


def test_strict_refuses_in_one_sentence(lacking, tiny):
    with Evaluator("cpu", strict=True) as evaluator, pytest.raises(ContainmentError) as caught:
        evaluator.evaluate("tiny_scale", "no code")
    assert str(caught.value).startswith("strict containment was asked for, and this host lacks: unprivileged uid (")
    assert "\n" not in str(caught.value)


def test_strict_refuses_a_worker_that_lacks_one_after_all(lacking, tiny):
    from fastkernels_env.judge.judge import Judge

    judge = Judge("cpu")
    try:
        judge.host.strict = True
        with pytest.raises(JudgeFault, match="this host lacks: unprivileged uid"):
            judge.host.spawn()
        assert judge.host.reports == []
    finally:
        judge.close()


@root
def test_strict_runs_where_nothing_is_missing(tiny, monkeypatch, task_files):
    monkeypatch.setenv("FASTKERNELS_STRICT", "1")
    with Evaluator("cpu", effort="quick") as evaluator:
        assert evaluator.strict
        evaluation = evaluator.evaluate("tiny_scale", f"```cpp\n{textwrap.dedent(task_files.texts['cpu'])}```")
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    assert tuple(evaluation.containment) == LAYERS
    monkeypatch.setenv("FASTKERNELS_STRICT", "0")
    assert not Evaluator("cpu").strict


def test_the_command_line_refuses_too(lacking, tiny, tmp_path):
    (tmp_path / "reply.md").write_text("no code")
    command = [sys.executable, "-m", "fastkernels_env", "evaluate", "tiny_scale", str(tmp_path / "reply.md"), "--device", "cpu", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "strict containment was asked for, and this host lacks: unprivileged uid" in done.stderr


# -- user ids ------------------------------------------------------------------------------------------------------------------


@root
def test_no_two_trees_share_a_user_id(monkeypatch):
    monkeypatch.setenv("FASTKERNELS_UID_BASE", "62000")
    taken = [slots.take_slot() for _ in range(5)]
    assert sorted(slot.uid for slot in taken) == [62000, 62001, 62002, 62003, 62004]
    other = subprocess.run(
        [sys.executable, "-c", "from fastkernels_env.sandbox import slots; print(slots.take_slot().uid)"], capture_output=True, text=True
    )
    assert other.stdout.strip() == "62005", other.stderr
    taken[2].release()
    again = slots.take_slot()
    assert again.uid == 62002
    for slot in (*taken[:2], *taken[3:], again):
        slot.release()


@pytest.mark.parametrize("text", ["none", "-5", "0", ""])
def test_a_base_that_is_no_user_id_is_refused(text, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_UID_BASE", text)
    with pytest.raises(ValueError, match="FASTKERNELS_UID_BASE: expected a user id above 0"):
        slots.base_uid()


def test_limits_follow_the_environment(monkeypatch):
    monkeypatch.setenv("FASTKERNELS_MEMORY_GB", "1.5")
    assert default_limits().memory == 1_500_000_000
    monkeypatch.setenv("FASTKERNELS_MEMORY_GB", "much")
    with pytest.raises(ValueError, match="expected a number of gigabytes, got 'much'"):
        default_limits()


# -- the filter ----------------------------------------------------------------------------------------------------------------


def run_filter(code, machine, number, arguments=()):
    """What the kernel would do: a small interpreter of the instructions that the filter uses."""
    architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join((value & (2**64 - 1)).to_bytes(8, "little") for value in [*arguments, *[0] * (6 - len(arguments))])
    accumulator, place = 0, 0
    while True:
        operation, if_true, if_false = int.from_bytes(code[place * 8 : place * 8 + 2], "little"), code[place * 8 + 2], code[place * 8 + 3]
        value = int.from_bytes(code[place * 8 + 4 : place * 8 + 8], "little")
        place += 1
        if operation == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            place += if_true if holds else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
CLONE, IOCTL, SOCKET, FUTEX = {"x86_64": 56, "aarch64": 220}, {"x86_64": 16, "aarch64": 29}, {"x86_64": 41, "aarch64": 198}, {
    "x86_64": 202, "aarch64": 98}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("driver_socket", "loopback"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_filter_denies_what_it_names_and_nothing_else(machine, driver_socket, loopback):
    code = seccomp.build_filter(machine, driver_socket, loopback)
    denied = seccomp.denied_calls(machine, driver_socket, loopback)
    special = {435, CLONE[machine], IOCTL[machine], SOCKET[machine]}
    for number in range(600):
        expected = EPERM if number in denied.values() else ALLOW
        assert number in special or run_filter(code, machine, number) == expected, number
    assert run_filter(code, machine, 435) == ENOSYS
    assert run_filter(code, machine, FUTEX[machine]) == ALLOW
    assert run_filter(code, machine, CLONE[machine], [0x3D0F00]) == run_filter(code, machine, CLONE[machine], [17]) == ALLOW
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run_filter(code, machine, CLONE[machine], [flag | 17]) == EPERM
    for request in (0x5412, 1 << 32 | 0x5412, 0x541C):
        assert run_filter(code, machine, IOCTL[machine], [0, request]) == EPERM
    assert run_filter(code, machine, IOCTL[machine], [0, 0xC020462A]) == ALLOW
    assert run_filter(code, {"x86_64": "aarch64", "aarch64": "x86_64"}[machine], FUTEX[machine]) == KILL
    driver = run_filter(code, machine, SOCKET[machine], [1, 5 | 0o2000000])
    assert driver == (ALLOW if driver_socket or loopback else EPERM)
    for family, kind in ((1, 1), (1, 2), (2, 1), (2, 5), (10, 2), (16, 3)):
        assert run_filter(code, machine, SOCKET[machine], [family, kind]) == (ALLOW if loopback else EPERM)
    for family, kind in ((40, 1), (17, 3), (29, 3)):
        assert run_filter(code, machine, SOCKET[machine], [family, kind]) == EPERM


def test_an_unknown_architecture_is_said():
    with pytest.raises(OSError, match="no system call table for 'mips'"):
        seccomp.build_filter("mips")


@pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason="no table for this architecture")
def test_the_kernel_takes_the_filter():
    def confined():
        from fastkernels_env.sandbox import linux

        linux.deny_new_privileges()
        seccomp.apply_seccomp(driver_socket=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            end.bind(f"\0fastkernels-test-{os.getpid()}")
            end.listen()
            try:
                end.connect("\0nobody")
            except PermissionError:
                return 7

    assert in_child(confined) == 7


# -- what is shown -------------------------------------------------------------------------------------------------------------


def test_shown_folders_do_not_hold_the_project():
    roots = find_roots()
    for folder in roots.folders:
        if PACKAGE.is_relative_to(folder):
            assert str(PACKAGE) in roots.masked
    assert not any(Path(folder) in (Path.home(), Path("/"), Path("/etc"), Path("/tmp")) for folder in roots.folders)
    readable = roots.readable()
    for hidden in ("judge", "evaluator.py", "envs", "reward"):
        assert not any((PACKAGE / hidden).is_relative_to(path) for path in readable)
    assert any((PACKAGE / "worker" / "session.py").is_relative_to(path) for path in readable)


def test_task_folders_among_installed_packages_are_masked(monkeypatch):
    folder = Path(sys.base_prefix) / "lib"
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", f"{folder}{os.pathsep}/nowhere")
    roots = find_roots()
    assert str(folder) in roots.masked
    assert not any(folder.is_relative_to(path) for path in roots.readable())


# -- trees ---------------------------------------------------------------------------------------------------------------------

FAMILY = """
    import os, threading, time
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True: sum(range(1000))
            time.sleep(100)
    print("ready", flush=True)
    while True:
        if os.fork() == 0: os._exit(0)
        os.waitpid(-1, os.WNOHANG)
        time.sleep(1e-4)
"""


@pytest.fixture
def family():
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(FAMILY)], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 20
    while len(tree.descendants(process.pid)) < 6 and time.monotonic() < deadline:  # the children fork on their own time
        time.sleep(0.01)
    yield process
    tree.kill(process.pid)
    process.wait()
    process.stdout.close()


def states(pids):
    found = []
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.append((task / "stat").read_text().rpartition(") ")[2][0])
    return found


def spent(pids):
    """Processor time of processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [int(field[11]) + int(field[12]) for field in fields]


def test_a_tree_is_found_stopped_and_continued(family):
    assert len(tree.descendants(family.pid)) >= 6
    for _ in range(5):
        stopped = tree.stop(family.pid)
        pids = [family.pid, *tree.descendants(family.pid)]
        assert set(stopped) >= set(pids)
        before = spent(pids)
        time.sleep(0.05)
        assert set(states(pids)) <= {"T", "Z"}
        assert spent(pids) == before
        assert [family.pid, *tree.descendants(family.pid)] == pids
        tree.resume(stopped, family.pid)
    time.sleep(0.3)
    assert set(states([family.pid])) <= {"R", "S"}


def test_a_tree_ends_with_what_has_left_its_session(family):
    pids = tree.descendants(family.pid)
    tree.kill(family.pid)
    family.wait()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") and states([pid]) != ["Z"] for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text() for pid in pids)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_session_pauses_resumes_and_closes_paused(trusted, evaluator, tiny, tmp_path):
    from fastkernels_env.protocol import Load

    path = tmp_path / "busy.py"
    path.write_text("import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\ndef entry(): pass\n")
    session = evaluator.open().host.spawn(trusted=trusted)
    try:
        session.load(Load(str(path), "python", "entry", (), (), False, False), 20)
        pids = session.processes()
        assert len(pids) == 2
        session.pause()
        session.pause()
        before = spent(pids)
        time.sleep(0.1)
        assert (spent(pids), set(states(pids))) == (before, {"T"})
        session.resume()
        session.load(Load(str(path), "python", "entry", (), (), False, False), 20)
        assert len(session.processes()) == 3
        session.pause()
    finally:
        session.close()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    session.pause()
    session.resume()

