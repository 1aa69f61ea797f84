"""What a chaos run kills and stalls, on the machine that its whole cluster is on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..sandbox import tree
from . import connections
from .processes import actor_processes, is_confined, is_judge, name_of

_KINDS = ("judge", "judge", "worker", "actor", "node", "connection", "stall", "disk")
"""Killed: a judge, a process of a submission, an actor, a node, the dispatcher's connections to an actor; and for some seconds: a node does
not answer, the log's disk is full."""
MURDERER = "murderer"
"""Name that a process of a submission takes whose judge is to die, whichever it is."""
_LOOK_SECONDS = 0.1
_STALL_SECONDS = 4.0
_BUSY = 3
"""A judge with more processes than this has a submission's worker."""


class Killer:
    """Kills and stalls at random; a node that is gone gets a successor. For the main thread, where Ray starts nodes.

    Args:
        cluster: The cluster.
        log: The log, if it is on a disk that may be filled.
        every: Mean seconds from one to the next.
        seed: Of what, and when.
        progress: Called with a line for each.
    """

    def __init__(self, cluster: Any, log: Path | None, every: float, seed: int, progress: Callable[[str], None]) -> None:
        self._cluster, self._log, self._every, self._progress = cluster, log, every, progress
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()

    async def run(self) -> None:
        """Kill something now and then, and the judges of murderers always, until this is cancelled."""
        await asyncio.gather(self._kill_at_random(), self._help_murderers())

    async def _help_murderers(self) -> None:
        """Containment keeps a submission from its judge; so it is done for those that say that they would."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            judges = [pid for actor in actor_processes() for pid in tree.descendants(actor) if is_judge(pid)]
            for judge in judges:
                if any(name_of(pid) == MURDERER for pid in tree.descendants(judge)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(judge, signal.SIGKILL)
                    self.killed["by a submission"] += 1
                    self._progress("killed: a judge, by its submission")

    async def _kill_at_random(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._every)
            kind = self._random.choice(_KINDS)
            if kind == "stall":
                done = await self._stall()
            elif kind == "disk":
                done = await self._fill()
            elif kind == "connection":
                done = sum(map(connections.cut, self._random.sample(actor_processes(), 1) if actor_processes() else [])) > 0
            else:
                done = self._kill_node() if kind == "node" else self._kill(kind)
            if done:
                self.killed[kind] += 1
                self._progress(f"killed: {kind}")

    def _node(self) -> Any:
        return self._random.choice(sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id)))

    def _kill_node(self) -> bool:
        self._cluster.remove_node(self._node(), allow_graceful=False)
        self._cluster.add_node(num_cpus=2)
        return True

    def _kill(self, kind: str) -> bool:
        actors = actor_processes()
        judges = [pid for actor in actors for pid in tree.descendants(actor) if is_judge(pid) and len(tree.descendants(pid)) > _BUSY]
        workers = [pid for judge in judges for pid in tree.descendants(judge) if is_confined(pid)]
        found = {"actor": actors, "judge": judges, "worker": workers}[kind]
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(found), signal.SIGKILL)
        return True

    async def _stall(self) -> bool:
        """Let a node not answer for a while: its own daemon stands still, what runs there goes on."""
        daemons = [one.process.pid for one in self._node().all_processes.get("raylet", [])]
        for pid in daemons:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_STALL_SECONDS)
        finally:
            for pid in daemons:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return bool(daemons)

    async def _fill(self) -> bool:
        """Leave the log's disk no room for a while."""
        if self._log is None:
            return False
        waste = self._log.with_name("waste")
        try:
            with contextlib.suppress(OSError):
                waste.write_bytes(bytes(shutil.disk_usage(self._log.parent).free))
            await asyncio.sleep(_STALL_SECONDS)
        finally:
            waste.unlink(missing_ok=True)
        return True
