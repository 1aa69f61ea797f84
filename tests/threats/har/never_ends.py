# Never returns, and cannot be asked to.
import signal

for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)


def silu_and_mul(out, input):
    while True:
        pass
