# Leaves a grandchild in a session of its own that ignores every signal it can and keeps computing.
import os
import signal

# include: baseline:eager.py as honest

if os.fork() == 0:
    os.setsid()
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        while True:
            os.getpid()
    os._exit(0)


def rms_norm(out, input, weight, epsilon):
    honest(out, input, weight, epsilon)
