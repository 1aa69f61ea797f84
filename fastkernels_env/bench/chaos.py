"""A batch on a cluster in which processes and nodes are killed at random: one verdict for every reply, and the right one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..log import LogError, read_log
from ..registry import load_task
from ..types import Answer, Item, Outcome
from .killer import MURDERER, Killer
from .throughput import marked

_TASK = "rms_norm"
_PYTHON = "```python\nimport os\n\n\ndef rms_norm(out, input, weight, epsilon):\n    {}  # {}\n```"
_REPLIES: tuple[tuple[Outcome, str], ...] = (
    (Outcome.ACCEPTED, ""), (Outcome.WRONG, _PYTHON.format("pass", "{}")), (Outcome.CRASHED, _PYTHON.format("os._exit(3)", "{}")),
    (Outcome.REJECTED, "I would rather not write a kernel today, nor tomorrow ({})."),
)
"""What comes in turn, and what must become of it; the first is the task's seed."""
_MURDER = _PYTHON.format(f"open('/proc/self/comm', 'w').write('{MURDERER}'); __import__('time').sleep(3)", "{}")
_MURDERER_EVERY = 25
"""Of so many replies one kills every judge that judges it."""
_OF_A_KILLED_WORKER = (Outcome.CRASHED, Outcome.BUILD_FAILED)
"""What becomes of a reply whose worker, or compiler, is killed."""
_DISK_BYTES = 1 << 23


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted.

    Attributes:
        submissions: Replies that were handed in.
        answers: Answers that came.
        lost: Replies without an answer.
        doubled: Answers beyond the first, and records beyond one for every reply.
        unlogged: Replies without a record, in the log or saved elsewhere while its disk was full.
        unexpected: Replies whose outcome is not the one that they have when nothing is killed, by outcome. Nothing tells a process of a
            submission that was killed from one that ended by itself, so that there may be as many as workers were killed.
        reasons: Of those, what the records say.
        killed: What was killed, by kind.
        moved: Answers that tell of a judge or a host that was lost over them.
        seconds: Wall time.
    """

    submissions: int
    answers: int
    lost: int
    doubled: int
    unlogged: int
    unexpected: dict[str, int]
    reasons: list[str]
    killed: dict[str, int]
    moved: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every reply got one verdict, the right one, and one record."""
        excused = sum(number for what, number in self.unexpected.items() if what.rpartition(" ")[2] in _OF_A_KILLED_WORKER)
        mistaken = sum(self.unexpected.values()) - min(excused, self.killed.get("worker", 0))
        return not (self.lost or self.doubled or self.unlogged or mistaken)


def replies(count: int) -> list[tuple[Outcome, Item]]:
    """Distinct replies and their outcomes."""
    seed = load_task(_TASK).seeds()["cpu.cpp"]
    found = []
    for number in range(count):
        outcome, text = _REPLIES[number % len(_REPLIES)]
        if number % _MURDERER_EVERY == _MURDERER_EVERY - 1:
            outcome, text = Outcome.CRASHED, _MURDER
        found.append((outcome, Item(task=_TASK, text=text.format(number) if text else marked(seed, "cpu.cpp", number))))
    return found


def run_chaos(count: int, nodes: int, every: float, seed: int, progress: Callable[[str], None] = lambda text: None) -> Chaos:
    """Judge a batch on a cluster of several nodes on this machine, CPU alone, and kill something every few seconds.

    Args:
        count: Replies.
        nodes: Nodes, of two cores each by what they say.
        every: Mean seconds from one kill to the next.
        seed: Of what is killed, and when.
        progress: Called with a line for every answer and every kill.
    """
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        with _disk() as (folder, small), contextlib.redirect_stdout(sys.stderr):  # Ray prints what dies
            return _run(cluster, replies(count), folder / "log.jsonl", small, every, seed, progress)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _disk() -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is on a small disk of its own, which takes the right to mount one."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", name]
        small = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
        try:
            yield Path(name), small
        finally:
            if small:
                subprocess.run(["umount", "-l", name], check=True)


def _run(
    cluster: Any, batch: Sequence[tuple[Outcome, Item]], log: Path, small: bool, every: float, seed: int,
    progress: Callable[[str], None],
) -> Chaos:
    from ..fleet import Fleet

    start = time.perf_counter()
    with Fleet(device="cpu", effort="quick", log=log, judges=1) as fleet:
        fleet.wait(1)
        killer = Killer(cluster, log if small else None, every, seed, progress)
        answers, saved = asyncio.run(_judge(fleet, [item for _, item in batch], killer, progress))
    seconds = time.perf_counter() - start
    by_index = Counter(answer.index for answer in answers)
    mistaken = [answer for answer in answers if answer.evaluation.outcome is not batch[answer.index][0]]
    unexpected = Counter(f"{batch[answer.index][0].value} became {answer.evaluation.outcome.value}" for answer in mistaken)
    logged = Counter(record.text for record in read_log(log)) + Counter(record.text for path in saved for record in read_log(path))
    for path in saved:
        path.unlink()
    return Chaos(
        submissions=len(batch), answers=len(answers), lost=len(batch) - len(by_index),
        reasons=["; ".join([answer.evaluation.reason, *answer.evaluation.faults]) for answer in mistaken],
        doubled=sum(by_index.values()) - len(by_index) + sum(number - 1 for number in logged.values()), unexpected=dict(unexpected),
        unlogged=len({item.text for _, item in batch} - {*logged}), killed=dict(killer.killed),
        moved=sum(bool(answer.evaluation.faults) for answer in answers), seconds=seconds,
    )  # fmt: skip


async def _judge(
    fleet: Any, items: Sequence[Item], killer: Killer, progress: Callable[[str], None]
) -> tuple[list[Answer], list[Path]]:
    """All answers, and the files of records that could not be logged."""
    answers: list[Answer] = []
    saved: list[Path] = []
    killing = asyncio.create_task(killer.run())
    try:
        async for answer in fleet.evaluate_many(items):
            answers.append(answer)
            progress(f"{len(answers)} of {len(items)}: {answer.evaluation.outcome.value}")
            if killing.done():
                await killing  # it ends by an error alone
    except LogError as error:
        saved += [path for path in (error.saved, *error.more) if path is not None]
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    return answers, saved
