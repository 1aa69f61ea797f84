"""What a submission can reach: nothing but its own folder and the judge's buffers. Each assertion runs inside of the submission."""

from __future__ import annotations

import os
import socket
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fastkernels_env import Outcome
from fastkernels_env.registry import load_task

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user this host may lack layers; see test_unprivileged")


@pytest.fixture
def secrets(tmp_path_factory):
    """Files of other users that anyone may read, where such files are."""
    folders = [tmp_path_factory.mktemp("other"), *map(Path, ("/etc", "/var/tmp", "/dev/shm", "/run"))]
    made = [folder / "fastkernels-test-secret" for folder in folders]
    for path in made:
        path.write_text("int stolen = 42;\n")
        path.chmod(0o644)
    yield [str(path) for path in made]
    for path in made:
        path.unlink()


def test_files_of_others_and_of_the_project_are_not_there(hit, secrets, python):
    task = load_task("rms_norm").folder
    package = Path(__file__).parents[2]
    forbidden = [
        *secrets, str(task / "task.py"), str(task), str(package / "reward"), str(package / "tests"),
        "/root/.bashrc", "/home", "/etc/shadow",
        str(package / "fastkernels_env/judge"), str(package / "fastkernels_env/evaluator.py"), os.environ["FASTKERNELS_CACHE"],
        os.environ["FASTKERNELS_ENV_PATH"], str(package / "pyproject.toml"), str(package / ".git"),
    ]
    existing = [path for path in forbidden if os.path.exists(path)]
    assert len(existing) > 9
    body = f"""
        import fastkernels_env
        beside = os.path.dirname(fastkernels_env.__file__)
        for path in {existing!r} + [beside + "/judge", beside + "/envs", beside + "/reward", beside + "/evaluator.py"]:
            assert not os.path.lexists(path), path
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_what_it_needs_is_there(hit, python):
    body = """
        import subprocess, tempfile, sysconfig
        assert os.cpu_count() == COUNT
        assert os.path.exists(sysconfig.get_paths()["stdlib"])
        with tempfile.NamedTemporaryFile("w", suffix=".c") as file:
            file.write("int f() { return 7; }")
            file.flush()
            subprocess.run(["cc", "-shared", "-fPIC", "-o", "f.so", file.name], check=True)
        assert ctypes.CDLL("./f.so").f() == 7
        open("/dev/null", "w").write("x")
        assert os.listdir("/dev/shm") == [], os.listdir("/dev/shm")
        assert torch.mm(torch.ones(300, 300), torch.ones(300, 300))[0, 0] == 300
    """.replace("COUNT", str(os.cpu_count()))
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


WRITES = """
    places = ["/tmp/x", "/x", "/etc/x", "/usr/x", "/dev/x", "/var/tmp/x", "/run/x", "/proc/sys/kernel/hostname", "/sys/kernel/x",
              sys.prefix + "/x", os.path.dirname(torch.__file__) + "/__init__.py", os.path.dirname(os.getcwd()) + "/x"]

    def written():
        found = []
        for place in places:
            try:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT))
                found.append(place)
            except OSError:
                pass
        return found

    from_thread = []
    thread = threading.Thread(target=lambda: (time.sleep(0.1), from_thread.append(written())))
    thread.start()
"""


def test_it_writes_into_its_folder_only_from_whatever_thread(hit, python):
    body = """
        open("mine", "w").write("x")
        assert written() == [], written()
        thread.join()
        assert from_thread == [[]], from_thread
        for call in (lambda: os.chmod("/usr", 0o777), lambda: os.unlink("/bin/sh"), lambda: os.rename("mine", "/tmp/mine"),
                     lambda: os.mkdir("/new"), lambda: os.mknod("node", 0o60600, os.makedev(7, 0)), lambda: os.chroot(".")):
            assert denied(call)
    """
    evaluation = hit(python(body, WRITES))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_every_thread_of_a_live_worker_is_confined(place, tiny, tmp_path):
    from fastkernels_env.protocol import Load

    evaluator, _ = place
    path = tmp_path / "threads.py"
    path.write_text(textwrap.dedent("""
        import threading, time, os, torch
        torch.mm(torch.ones(300, 300), torch.ones(300, 300))
        for _ in range(3): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        if os.fork() == 0: time.sleep(100)
        def entry(): pass
    """))
    session = evaluator.open().host.spawn()
    try:
        session.load(Load(str(path), "python", "entry", (), (), False, False), 20)
        processes = session.processes()
        assert len(processes) == 2
        assert processes[0] == session.pid
        seen = 0
        for process in processes:
            for task in Path(f"/proc/{process}/task").iterdir():
                facts = dict(line.partition(":")[::2] for line in (task / "status").read_text().splitlines())
                assert 61000 <= int(facts["Uid"].split()[0]) < 62000
                assert len(set(facts["Uid"].split())) == len(set(facts["Gid"].split())) == 1
                assert facts["Groups"].split() == []
                assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
                assert {facts[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
                seen += 1
            for name in ("net", "ipc", "pid", "mnt", "uts"):
                assert os.readlink(f"/proc/{process}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        assert seen >= 5
    finally:
        session.close()
    assert session.processes() == []


def test_a_confined_worker_is_bound_to_cores_as_a_baseline_is(place, tiny, tmp_path):
    from fastkernels_env.protocol import Load

    host, found = place[0].open().host, []
    path = tmp_path / "cores.py"
    path.write_text("import os, torch\nprint(os.sched_getaffinity(0), torch.get_num_threads(), flush=True)\ndef entry(): pass\n")
    for trusted in (False, True):
        session = host.spawn(trusted=trusted)
        try:
            session.load(Load(str(path), "python", "entry", (), (), False, False), 20)
            deadline = time.monotonic() + 10
            while not session.output() and time.monotonic() < deadline:
                time.sleep(0.01)
            found.append((session.output(), os.sched_getaffinity(session.pid)))
        finally:
            session.close()
    assert found[0] == found[1]
    assert found[0][0]


def test_the_judge_is_not_visible(hit, python):
    """The twin of what follows: outside, this process can be found, read and signalled."""
    body = f"""
        assert not os.path.exists("/proc/{os.getpid()}")
        assert denied(open, "/proc/{os.getpid()}/mem", "rb")
        assert denied(os.kill, {os.getpid()}, 0)
        assert sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) == [1, os.getpid()]
        assert denied(open, "/proc/1/mem", "rb") and denied(open, "/proc/1/environ", "rb") and denied(os.listdir, "/proc/1/fd")
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason
    os.kill(os.getpid(), 0)
    assert Path(f"/proc/{os.getpid()}/environ").read_bytes()


CALLS = {
    "ptrace": "101, 16, 1, 0, 0", "process_vm_readv": "310, 1, 0, 0, 0, 0, 0", "io_uring": "425, 8, 0", "bpf": "321, 0, 0, 0",
    "perf_event_open": "298, 0, 0, -1, -1, 0", "userfaultfd": "323, 0", "keyctl": "250, 0, 0", "unshare": "272, 0x10000000",
    "setns": "308, 0, 0", "mount": "165, b'none', b'/tmp', b'tmpfs', 0, 0", "pidfd_open": "434, 1, 0", "kcmp": "312, 1, 1, 0, 0, 0",
    "personality": "135, 0x40000", "clone into namespaces": "56, 0x10000011, 0, 0, 0, 0", "open_by_handle_at": "304, 0, 0, 0",
    "TIOCSTI": "16, 0, 0x5412, b'x'", "memfd_secret": "447, 0", "the x32 table": "0x40000000 + 39",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_system_calls_that_reach_out_are_refused(hit, python):
    lines = [f"assert libc.syscall({call}) == -1 and ctypes.get_errno() == 1, {name!r}" for name, call in CALLS.items()]
    lines += ["assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == 38", "os.waitpid(os.fork() or os._exit(0), 0)"]
    evaluation = hit(python("\n".join(lines)))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


@pytest.fixture
def listeners(tmp_path_factory):
    """Servers as they run beside an evaluator: TCP, UDP, and Unix sockets with and without a path, as Ray's."""
    folder = tmp_path_factory.mktemp("session_latest") / "sockets"
    folder.mkdir(mode=0o777)
    path, name = str(folder / "raylet"), f"\0fastkernels-test-{os.getpid()}"
    servers = [socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    servers += [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for server, address in zip(servers, [("127.0.0.1", 0), ("127.0.0.1", 0), path, name], strict=True):
        server.bind(address)
    for server in (servers[0], *servers[2:]):
        server.listen()
    os.chmod(path, 0o777)
    yield servers[0].getsockname()[1], path, name
    for server in servers:
        server.close()


def test_no_socket_reaches_a_server(hit, listeners, python):
    tcp, path, name = listeners
    with socket.socket() as twin:
        twin.connect(("127.0.0.1", tcp))
    with socket.socket(socket.AF_UNIX) as twin:
        twin.connect(path)
    body = f"""
        for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16, 40):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                assert denied(socket.socket, family, kind), (family, kind)
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for address in ({path!r}, {name!r}):
            assert denied(left.connect, address) and denied(left.sendto, b"x", address)
        assert not os.path.exists({path!r})
        assert open("/proc/net/dev").read().count(":") == 1
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_an_assertion_of_a_submission_does_fail(hit, python):
    """The twin of all these."""
    assert "AssertionError" in hit(python("assert denied(open, '/dev/null')")).reason


# -- builds --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["#include {quoted}", 'asm(".incbin {escaped}");'])
def test_a_build_does_not_read_files_of_others(how, hit, secrets, task_files):
    for path in (secrets[1], str(load_task("rms_norm").folder / "task.py")):
        evaluation = hit_build(hit, how.format(quoted=f'"{path}"', escaped=f'\\"{path}\\"'), task_files)
        assert evaluation.outcome is Outcome.BUILD_FAILED, evaluation.reason
        assert path in evaluation.build_log
        assert "42" not in evaluation.build_log


def test_a_build_does_not_even_see_them(hit, secrets, task_files):
    paths = [*secrets, str(load_task("rms_norm").folder / "task.py"), f"/proc/{os.getpid()}/environ", "/etc/shadow"]
    lines = "\n".join(f'#if __has_include("{path}")\n#error it is there\n#endif' for path in paths)
    evaluation = hit_build(hit, lines, task_files)
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_a_build_does_see_a_file_that_is_there(hit, task_files):
    """The twin."""
    assert hit_build(hit, '#include "/usr/include/stdlib.h"', task_files).outcome is Outcome.ACCEPTED


def hit_build(hit, line, task_files):
    code = textwrap.dedent(task_files.texts["cpu"])
    return hit(f"```cpp\n{code}\n{line}\n```")


def test_nothing_of_the_judges_own_process_changes(hit, python):
    """Confinement is of the worker alone."""
    evaluation = hit(python(""))
    assert evaluation.outcome is Outcome.ACCEPTED
    assert os.geteuid() == 0
    assert threading.main_thread().is_alive()
    assert "Seccomp:\t0" in Path("/proc/self/status").read_text()
