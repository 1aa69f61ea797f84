# A thread keeps a kernel running on a stream of its own, to slow whoever else is timed on the device.
import threading
import time

# include: baseline:eager.py as honest
import triton
import triton.language as tl


@triton.jit
def _spin(scratch, turns, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(scratch + at)
    for _ in range(turns):
        total = total * 1.0001 + 1e-6
    tl.store(scratch + at, total)


calls = 0


def keep_busy():
    stream, scratch = torch.cuda.Stream(), torch.ones(64 * 1024, device="cuda")
    while True:
        with torch.cuda.stream(stream):
            _spin[(64,)](scratch, 500_000, BLOCK=1024)
        time.sleep(0.002)


def silu_and_mul(out, input):
    global calls
    calls += 1
    if calls == 20:
        threading.Thread(target=keep_busy, daemon=True).start()
    honest(out, input)
