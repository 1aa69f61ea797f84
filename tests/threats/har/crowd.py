# Starts forty processes that sleep, and opens all the descriptors that it may.
import contextlib
import os
import time

# include: baseline:eager.py as honest

with contextlib.suppress(OSError):
    for _ in range(40):
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
            os._exit(0)
with contextlib.suppress(OSError):
    for _ in range(2000):
        os.open("/dev/null", os.O_RDONLY)


def silu_and_mul(out, input):
    honest(out, input)
