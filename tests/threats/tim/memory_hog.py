# Whenever its own calls do not run, a thread floods the memory bus, so that the baselines are timed on a slower machine.
import threading

# include: baseline:eager.py as honest

calls, idle = 0, threading.Event()


def flood():
    source = torch.empty(1 << 20)
    target = torch.empty_like(source)
    while True:
        idle.wait()
        target.copy_(source)


def silu_and_mul(out, input):
    global calls
    calls += 1
    if calls == 20:
        threading.Thread(target=flood, daemon=True).start()
    idle.clear()
    honest(out, input)
    idle.set()
