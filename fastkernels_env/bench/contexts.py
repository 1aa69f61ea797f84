"""What a CUDA context takes beside others: the driver makes one at a time, and that is what many judges on one GPU wait for.

``python -m fastkernels_env.bench.contexts IDLE AT_ONCE`` measures in a process of its own, which has torch imported and no context, as fork
servers have; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import msgspec

QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"
_ALONE = 3
"""How often one is made with no other at the same time."""
_SECONDS = 300.0


class Contexts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that contexts took.

    Attributes:
        queues: Hardware queues of every context.
        idle: Contexts that were there meanwhile and did nothing.
        alone: Median of contexts that were made one after the other.
        at_once: How many were then made at the same time.
        each: Median of those.
    """

    queues: int
    idle: int
    alone: float
    at_once: int
    each: float


def run_contexts(queues: Sequence[int], idle: Sequence[int], at_once: int, progress: Callable[[str], None]) -> list[Contexts]:
    """Measure every combination.

    Raises:
        RuntimeError: A context could not be made.
    """
    found = []
    for number in queues:
        for beside in idle:
            progress(f"{number} queues, {beside} idle contexts")
            command = [sys.executable, "-P", "-m", "fastkernels_env.bench.contexts", str(beside), str(at_once)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=os.environ | {QUEUES: str(number)})
            if ended.returncode:
                raise RuntimeError(f"no context could be made: {(ended.stderr.strip().splitlines() or ['no reason was given'])[-1]}")
            alone, each = json.loads(ended.stdout)
            found.append(Contexts(queues=number, idle=beside, alone=alone, at_once=at_once, each=each))
    return found


def lines(found: Sequence[Contexts]) -> Iterator[str]:
    """The results for a reader."""
    for one in found:
        yield (
            f"{one.queues} queues, beside {one.idle} idle contexts: {one.alone:.3f} s; each of {one.at_once} at once {one.each:.3f} s"
        )  # fmt: skip


def main() -> None:
    """Measure and print."""
    import torch  # noqa: F401 -- forks have it, as workers have

    idle, at_once = map(int, sys.argv[1:])
    waiting = [_fork(stay=True) for _ in range(idle)]
    try:
        for one in waiting:
            _told(*one)
        alone = []
        for _ in range(_ALONE):
            one = _fork()
            alone.append(_told(*one))
            os.waitpid(one[0], 0)
        together = [_fork() for _ in range(at_once)]
        each = [_told(*one) for one in together]
    finally:
        for pid, _ in waiting:
            os.kill(pid, signal.SIGKILL)
    print(json.dumps([statistics.median(alone), statistics.median(each)]))


def _fork(*, stay: bool = False) -> tuple[int, int]:
    """A process that makes a context, and the pipe on which it says how long that took."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(tell, str(_make()).encode())
            if stay:
                signal.pause()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    return pid, told


def _make() -> float:
    """Seconds that this process's context takes."""
    from cuda.bindings import driver

    from .._cuda import checked

    checked(driver.cuInit(0))
    device = checked(driver.cuDeviceGet(0))
    start = time.perf_counter()
    checked(driver.cuDevicePrimaryCtxRetain(device))
    return time.perf_counter() - start


def _told(pid: int, told: int) -> float:
    """What a process says.

    Raises:
        RuntimeError: It ended before it had a context.
    """
    with open(told, "rb", buffering=0) as pipe:
        said = pipe.read(64)
    if not said:
        raise RuntimeError(f"process {pid} ended before it had a CUDA context")
    return float(said)


if __name__ == "__main__":
    main()
