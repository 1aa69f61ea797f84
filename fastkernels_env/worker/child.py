"""A forked worker: takes on its own session, scratch folder and output file, then serves the judge's requests."""

from __future__ import annotations

import faulthandler
import os
import resource
import socket
import tempfile

from ..protocol import Channel, Closed, Raised, Request, Spawn
from .session import Session

OUTPUT_LIMIT = 1 << 30
"""Largest file that a worker may write, its captured output included."""


def run_child(request: Spawn, fds: list[int]) -> None:
    """Run a worker until the judge closes its channel.

    Args:
        request: Device, scratch folder and environment.
        fds: Channel, go, done, clock page, log.
    """
    channel_fd, go, done, page, log = fds
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.scratch)
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_LIMIT, OUTPUT_LIMIT))
    faulthandler.enable()
    channel = Channel(socket.socket(fileno=channel_fd))
    session = Session(request.device, go, done, page)
    while True:
        try:
            frame, received = channel.receive(Request)
        except Closed:
            return
        try:
            reply = session.handle(frame, received)
        except BaseException as error:
            reply = Raised(type(error).__name__, session.describe(error))
        channel.send(reply)
