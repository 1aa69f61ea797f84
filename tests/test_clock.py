"""The judge's time stands still while it is stopped."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time

from fastkernels_env.clock import Stops
from fastkernels_env.device.base import fixed_file

CHILD = """
import select, sys
from fastkernels_env import clock

clock.adopt(int(sys.argv[1]))
start = clock.now()
print("ready", flush=True)
sys.stdin.readline()
print(clock.now() - start, clock.stopped(), flush=True)
"""


def test_time_in_which_a_process_was_stopped_does_not_pass():
    page = fixed_file("stops", mmap.PAGESIZE)
    stops = Stops(page)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(page)], pass_fds=[page], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        start = time.perf_counter()
        for _ in range(2):
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(0.4)
            stops.add(0.4)
            os.kill(child.pid, signal.SIGCONT)
        passed, stopped = map(float, child.communicate("go on\n")[0].split())
        spent = time.perf_counter() - start
    assert stopped == 0.8
    assert passed <= spent - 0.8
    stops.close()
    os.close(page)
