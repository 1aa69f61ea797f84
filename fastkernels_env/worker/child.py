"""A worker: takes on its folder and its environment, then serves the judge's requests.

A submission's worker is confined before this runs (see `sandbox.confine`); a baseline's is not.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import socket
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from ..protocol import Channel, Closed, Load, Raised, Request, Spawn
from ..provisions import unpack
from ..sandbox import linux
from .crew import collect, deal, muster
from .session import Session

CODE = "submission"
"""Folder of the artefact, in the scratch folder."""


def run_child(request: Spawn, fds: list[int], cores: Collection[int]) -> None:
    """Run a worker until the judge closes its channel.

    Args:
        request: Device, scratch folder, environment, number of ranks.
        fds: Channel, what the clock wakes each rank by (CPU), clock page, provisions if there are any.
        cores: Of which every rank takes one.
    """
    provisions = fds.pop() if request.provided else None
    channel_fd, *ends, page = fds
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.scratch)
    tempfile.tempdir = None
    faulthandler.enable()
    if provisions is not None:
        unpack(provisions, request.scratch)
        os.close(provisions)
    channel = Channel(socket.socket(fileno=channel_fd))
    rank, crew = 0, list[tuple[int, Channel]]()
    if request.ranks > 1:
        rank, own, crew = muster(request.ranks, cores)
        if not crew:
            channel.close()
            channel = own
        for number, end in enumerate(ends):
            if number != rank:
                os.close(end)
    if crew:
        linux.set_dumpable(False)  # descriptors of every rank's memory pass through it
        _lead(channel, crew, request.scratch)
    else:
        _serve(channel, Session(request.device, ends[rank] if ends else -1, page, rank), request.scratch)


def _serve(channel: Channel, session: Session, scratch: str) -> None:
    while True:
        try:
            frame, received = channel.receive(Request)
        except Closed:
            return
        try:
            if isinstance(frame, Load) and received:
                frame = _keep_artifact(frame, received.pop(), scratch)
            reply = session.handle(frame, received)
        except BaseException as error:
            reply = Raised(type(error).__name__, session.describe(error))
        channel.send(reply)


def _lead(channel: Channel, crew: Sequence[tuple[int, Channel]], scratch: str) -> None:
    while True:
        try:
            frame, received = channel.receive(Request)
        except Closed:
            return
        if isinstance(frame, Load) and received:
            frame = _keep_artifact(frame, received.pop(), scratch)
        deal(frame, received, crew)
        for fd in received:
            os.close(fd)
        channel.send(collect(crew))


def _keep_artifact(request: Load, descriptor: int, scratch: str) -> Load:
    """Copy an artefact that came as a descriptor into the scratch folder: the worker does not see where it was built."""
    path = Path(scratch, CODE, Path(request.path).name)
    path.parent.mkdir(exist_ok=True)
    with open(descriptor, "rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return msgspec.structs.replace(request, path=str(path))
