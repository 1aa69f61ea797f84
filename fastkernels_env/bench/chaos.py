"""A batch on a cluster in which processes and nodes are killed at random: one verdict for every reply, and the right one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..log import read_log
from ..registry import load_task
from ..sandbox import tree
from ..types import Answer, Item, Outcome
from .throughput import marked

_TASK = "rms_norm"
_PYTHON = "```python\nimport os\n\n\ndef rms_norm(out, input, weight, epsilon):\n    {}  # {}\n```"
_REPLIES: tuple[tuple[Outcome, str], ...] = (
    (Outcome.ACCEPTED, ""), (Outcome.WRONG, _PYTHON.format("pass", "{}")), (Outcome.CRASHED, _PYTHON.format("os._exit(3)", "{}")),
    (Outcome.REJECTED, "I would rather not write a kernel today, nor tomorrow ({})."),
)
"""What comes in turn, and what must become of it; the first is the task's seed."""
_KINDS = ("judge", "judge", "actor", "node")
_BUSY = 3
"""A judge with more processes than this has a submission's worker."""


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted.

    Attributes:
        submissions: Replies that were handed in.
        answers: Answers that came.
        lost: Replies without an answer.
        doubled: Answers beyond the first, and records in the log beyond one for every reply.
        unexpected: Replies whose outcome is not the one that they have when nothing is killed, by outcome.
        killed: What was killed, by kind.
        moved: Answers that tell of a judge or a host that was lost over them.
        seconds: Wall time.
    """

    submissions: int
    answers: int
    lost: int
    doubled: int
    unexpected: dict[str, int]
    killed: dict[str, int]
    moved: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every reply got one verdict, the right one."""
        return not self.lost and not self.doubled and not self.unexpected


def replies(count: int) -> list[tuple[Outcome, Item]]:
    """Distinct replies and their outcomes."""
    seed = load_task(_TASK).seeds()["cpu.cpp"]
    found = []
    for number in range(count):
        outcome, text = _REPLIES[number % len(_REPLIES)]
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
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.redirect_stdout(sys.stderr):  # Ray prints what dies
            return _run(cluster, replies(count), Path(folder) / "log.jsonl", every, seed, progress)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _run(
    cluster: Any, batch: Sequence[tuple[Outcome, Item]], log: Path, every: float, seed: int, progress: Callable[[str], None]
) -> Chaos:
    from ..fleet import Fleet

    start = time.perf_counter()
    with Fleet(device="cpu", effort="quick", log=log, judges=1) as fleet:
        fleet.wait(1)
        killer = _Killer(cluster, every, seed, progress)
        answers = asyncio.run(_judge(fleet, [item for _, item in batch], killer, progress))
    seconds = time.perf_counter() - start
    by_index = Counter(answer.index for answer in answers)
    unexpected = Counter(
        f"{batch[answer.index][0].value} became {answer.evaluation.outcome.value}" for answer in answers
        if answer.evaluation.outcome is not batch[answer.index][0]
    )
    logged = Counter(record.text for record in read_log(log))
    return Chaos(
        submissions=len(batch), answers=len(answers), lost=len(batch) - len(by_index),
        doubled=sum(by_index.values()) - len(by_index) + sum(number - 1 for number in logged.values()), unexpected=dict(unexpected),
        killed=dict(killer.killed), moved=sum(bool(answer.evaluation.faults) for answer in answers), seconds=seconds,
    )  # fmt: skip


async def _judge(fleet: Any, items: Sequence[Item], killer: _Killer, progress: Callable[[str], None]) -> list[Answer]:
    answers = []
    killing = asyncio.create_task(killer.run())
    async for answer in fleet.evaluate_many(items):
        answers.append(answer)
        progress(f"{len(answers)} of {len(items)}: {answer.evaluation.outcome.value}")
        if killing.done():
            await killing  # it ends by an error alone
    killing.cancel()
    return answers


class _Killer:
    """Kills judges, actors and nodes at random; a node that is gone gets a successor. For the main thread, where Ray starts nodes."""

    def __init__(self, cluster: Any, every: float, seed: int, progress: Callable[[str], None]) -> None:
        self._cluster, self._every, self._random, self._progress = cluster, every, random.Random(seed), progress
        self.killed: Counter[str] = Counter()

    async def run(self) -> None:
        """Kill something now and then, until this is cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._every)
            kind = self._random.choice(_KINDS)
            if self._kill(kind):
                self.killed[kind] += 1
                self._progress(f"killed: {kind}")

    def _kill(self, kind: str) -> bool:
        if kind == "node":
            node = self._random.choice(sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id)))
            self._cluster.remove_node(node, allow_graceful=False)
            self._cluster.add_node(num_cpus=2)
            return True
        actors = actor_processes()
        found = actors if kind == "actor" else [
            pid for actor in actors for pid in tree.descendants(actor) if _is_judge(pid) and len(tree.descendants(pid)) > _BUSY
        ]
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(found), signal.SIGKILL)
        return True


def actor_processes() -> list[int]:
    """Process ids of a fleet's actors on this machine, by what Ray calls them."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _line(path).startswith(b"ray::Judges")]


def _is_judge(pid: int) -> bool:
    return b"fastkernels_env.pool" in _line(Path(f"/proc/{pid}/cmdline"))


def _line(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
