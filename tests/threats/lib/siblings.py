import os


def parent_of(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])


def siblings():
    """Other workers of the same server: the baselines."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if pid != os.getpid() and parent_of(pid) == os.getppid():
                found.append(pid)
        except OSError:
            continue
    return found
