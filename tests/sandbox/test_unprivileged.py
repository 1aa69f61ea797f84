"""Hosts that lack something: what can be had is applied, the rest is named, and evaluations run all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastkernels_env import _compile
from fastkernels_env.sandbox.layers import (
    ALWAYS,
    BUILDS,
    IPC,
    LANDLOCK,
    LAYERS,
    LIMITS,
    NETWORK,
    PID,
    PRIVILEGES,
    SECCOMP,
    UID,
    VIEW,
    WATCH,
)

SCRIPT = """
    import json, os, sys, time
    from fastkernels_env import Evaluator

    with Evaluator("cpu", effort="quick") as evaluator:
        for text in json.load(sys.stdin):
            record = evaluator.evaluate("tiny_scale", text)
            print(json.dumps([record.outcome.value, record.reason, record.containment, record.missing_containment]))
"""
SUBMISSION = """
    import os, time, torch
    started = []

    def denied(path, mode="r"):
        try:
            open(path, mode).close()
        except OSError:
            return True

    def tiny_scale(out, input, weight, factor):
        if not started:
            started.append(0)
            BODY
        torch.mul(input, weight, out=out)
        out.mul_(factor)
"""
BODIES = {
    "nothing": "pass",
    "files": "assert denied(SECRET) and denied('/etc/x', 'w') and denied('/tmp/x', 'w') and denied('/proc/JUDGE/mem', 'rb')",
    "a file that it may read": "assert denied('/usr/include/stdlib.h')",
    "a grandchild": """
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    while True: time.sleep(1)
                os._exit(0)
    """.strip(),
    "memory": "kept = [bytearray(b'x' * (64 << 20)) for _ in range(40)]",
}


def left(uid_base):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("Uid:"))
            except (OSError, StopIteration):
                continue
            if uid_base <= int(line.split()[1]) < uid_base + 1000:
                found.append(entry.name)
    return found


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes a capability away from root")
def test_a_container_that_may_not_make_namespaces(tiny_root, task_files, tmp_path):
    """Root as it is in most containers. The other layers still hold."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    temporary = Path("/var/tmp") / f"fastkernels-test-{os.getpid()}"
    temporary.mkdir()
    texts = [f"```cpp\n{textwrap.dedent(task_files.texts['cpu'])}```"]
    for body in BODIES.values():
        code = textwrap.dedent(SUBMISSION).replace("BODY", body).replace("SECRET", repr(str(secret))).replace("JUDGE", str(os.getpid()))
        texts.append(f"```python\n{code}\n```")
    texts.append(f"```cpp\n{textwrap.dedent(task_files.texts['cpu'])}\n#include \"{secret}\"\n```")
    environment = {
        **os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "FASTKERNELS_UID_BASE": "63000", "FASTKERNELS_MEMORY_GB": "1",
        "TMPDIR": str(temporary),
    }
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", textwrap.dedent(SCRIPT)], input=json.dumps(texts),
        capture_output=True, text=True, env=environment, timeout=300,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(texts), done.stderr[-3000:]
    native, *others = rows
    assert native[0] == "accepted", native
    passable = all(folder.stat().st_mode & 1 for folder in Path(sys.base_prefix).parents)  # else another user cannot start this Python
    own = [UID] if passable else []
    assert native[3] == [name for name in LAYERS if name in {NETWORK, IPC, PID, VIEW, BUILDS, *({UID} - set(own))}]
    assert native[2] == [*ALWAYS, *own, PRIVILEGES, LANDLOCK, SECCOMP, LIMITS, WATCH]
    outcomes = dict(zip([*BODIES, "build"], [(row[0], row[1]) for row in others], strict=True))
    assert outcomes["nothing"][0] == outcomes["files"][0] == outcomes["a grandchild"][0] == "accepted", outcomes
    assert "AssertionError" in outcomes["a file that it may read"][1]
    assert outcomes["memory"] == ("crashed", "smoke: the submission took more than 1.0 GB of memory")
    assert outcomes["build"][0] == "build_failed"
    assert left(63000) == []
    temporary.rmdir()  # nothing is left in it


BECOME = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"


def python_for_everybody():
    """An interpreter that an ordinary user may start."""
    for path in (sys.executable, "/usr/bin/python3"):
        test = "import ctypes, sys; assert sys.version_info >= (3, 11)"
        if os.path.exists(path) and subprocess.run([sys.executable, "-c", BECOME, path, "-c", test], capture_output=True).returncode == 0:
            return path
    pytest.skip("no interpreter that an ordinary user may start")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_ordinary_user_has_what_a_user_namespace_gives(tmp_path):
    """The same script that doctor runs. Whether user namespaces are allowed is the host's affair: either way nothing else is missing."""
    interpreter = python_for_everybody()
    folder = Path("/var/tmp") / f"fastkernels-test-{os.getpid()}"
    shutil.copytree(Path(_compile.__file__).parent / "sandbox", folder / "sandbox")
    shutil.copy(_compile.__file__, folder / "_compile.py")
    (folder / "scratch").mkdir()
    os.chown(folder / "scratch", 65534, 65534)
    command = [sys.executable, "-c", BECOME, interpreter, "-P", str(folder / "_compile.py"), "--probe", str(folder / "scratch")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"})
        missing = json.loads(done.stdout)["missing"] if done.returncode == 0 else done.stderr
    finally:
        shutil.rmtree(folder)
    assert UID in missing, missing
    assert set(missing) <= {UID, NETWORK, IPC, PID, VIEW}, missing
    assert set(missing) == {UID} or all("user namespace" in why for layer, why in missing.items() if layer != UID)
