"""A worker: takes on its folder and its environment, then serves the judge's requests.

A submission's worker is confined before this runs (see `sandbox.confine`); a baseline's is not.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import socket
import tempfile
from pathlib import Path

import msgspec

from ..protocol import Channel, Closed, Load, Raised, Request, Spawn
from .session import Session

CODE = "submission"
"""Folder of the artefact, in the scratch folder."""


def run_child(request: Spawn, fds: list[int]) -> None:
    """Run a worker until the judge closes its channel.

    Args:
        request: Device, scratch folder and environment.
        fds: Channel, go, done, clock page.
    """
    channel_fd, go, done, page = fds
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.scratch)
    tempfile.tempdir = None
    faulthandler.enable()
    channel = Channel(socket.socket(fileno=channel_fd))
    session = Session(request.device, go, done, page)
    while True:
        try:
            frame, received = channel.receive(Request)
        except Closed:
            return
        try:
            if isinstance(frame, Load) and received:
                frame = _keep_artifact(frame, received.pop(), request.scratch)
            reply = session.handle(frame, received)
        except BaseException as error:
            reply = Raised(type(error).__name__, session.describe(error))
        channel.send(reply)


def _keep_artifact(request: Load, descriptor: int, scratch: str) -> Load:
    """Copy an artefact that came as a descriptor into the scratch folder: the worker does not see where it was built."""
    path = Path(scratch, CODE, Path(request.path).name)
    path.parent.mkdir(exist_ok=True)
    with open(descriptor, "rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return msgspec.structs.replace(request, path=str(path))
