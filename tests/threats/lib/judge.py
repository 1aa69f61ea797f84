import os


def judge_pid():
    """The process that started the server of which this worker is a child."""
    server = os.getppid()
    judge = int(open(f"/proc/{server}/stat").read().rpartition(")")[2].split()[1]) if server else 0
    if judge <= 1:
        raise RuntimeError("no judge in sight")
    return judge
