"""Frames between the judge, the fork server and the workers: data only, decoded strictly, never pickled.

Frames are msgpack-encoded `msgspec` structs with a length prefix over a Unix stream socket; file descriptors ride along with
SCM_RIGHTS. What a worker sends is a claim (`Evidence.REPORTED`): it can only count against the submission.
"""

from __future__ import annotations

import array
import os
import socket
import struct

import msgspec

from .clock import now

MAX_REPLY = 1 << 20
"""Largest frame that the judge accepts from a worker."""
_MAX_FDS = 16
_HEADER = struct.Struct("<I")


class ProtocolError(Exception):
    """A frame that is too long, cut off, or not what the protocol allows."""


class Closed(Exception):
    """The other side closed the channel."""


class TensorRef(msgspec.Struct, frozen=True, array_like=True):
    """A tensor inside an attached arena: byte offset, shape and strides in elements, dtype name; the rank whose part of it is meant."""

    arena: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    rank: int = 0


ArgValue = TensorRef | bool | int | float


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load an artefact and find its entry. If a descriptor rides along, it is the artefact, and `path` gives its name only."""

    path: str
    language: str
    entry: str
    arguments: tuple[str, ...]
    roles: tuple[str, ...]
    has_prepare: bool
    has_plan: bool
    compile: bool = False
    interpret: bool = False
    """Run Triton kernels through its interpreter."""
    ahead: bool = False
    """Compile Triton kernels for sm_90 instead of running them."""
    ops: tuple[str, ...] = ()
    """The artefact defines these, and not the entry: that is `program`'s, which calls them in place of its own."""
    program: str = ""
    """Source of the program around the ops."""


class Join(msgspec.Struct, frozen=True, tag=True):
    """Form a group of all ranks; comes before `Load`. A descriptor for each rank's part of the workspace rides along."""

    size: int
    """Bytes of a part."""


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Map the judge's memory (a descriptor for each rank rides along)."""

    arena: int
    size: int
    """Bytes of a rank's part."""


class Detach(msgspec.Struct, frozen=True, tag=True):
    """Forget every call and arena."""


class Bind(msgspec.Struct, frozen=True, tag=True):
    """Set the calls that later frames refer to by index; each is the entry's argument list, one after the other for all ranks."""

    calls: list[list[ArgValue]]


class Setup(msgspec.Struct, frozen=True, tag=True):
    """Run `prepare` and `plan`, where the module has them, for these calls."""

    calls: list[int]


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run these calls once, in order, and synchronise."""

    calls: list[int]


class Capture(msgspec.Struct, frozen=True, tag=True):
    """Capture each of these calls into a CUDA graph of its own, before anything says which of them are called together."""

    calls: list[int]


class Arm(msgspec.Struct, frozen=True, tag=True):
    """Make sequences of calls ready for the clock; on CUDA put each together of calls captured before, if `graph`."""

    sequences: list[list[int]]
    graph: bool
    unseen: int = 0
    """So many of the last sequences do not run until the clock says so."""


class Clock(msgspec.Struct, frozen=True, tag=True):
    """Obey the clock page (or event) until told to stop; then answer."""


class Trace(msgspec.Struct, frozen=True, tag=True):
    """Run these calls under the profiler and report device time by kernel name."""

    calls: list[int]


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Remember the process's global state; comes before `Load`."""

    stack: bool = True
    """Import the compile stack first."""


class Changes(msgspec.Struct, frozen=True, tag=True):
    """Say what of the global state is no longer as it was at `Watch`."""


class Register(msgspec.Struct, frozen=True, tag=True):
    """Register the entry as an operator of torch.library."""

    schema: str
    """Such as ``rms_norm(Tensor(a0!) out, Tensor input, Tensor weight, float epsilon) -> ()``."""
    ops: dict[str, str] = {}
    """Schemas of the ops that were loaded, by name: they become operators, and the program around them what is compiled."""


class Step(msgspec.Struct, frozen=True, tag=True):
    """Run these calls the way that a compile or runtime stack would; the ways are listed in `worker.gate`."""

    way: str
    calls: list[int]


Request = Join | Load | Attach | Detach | Bind | Setup | Run | Capture | Arm | Clock | Trace | Watch | Changes | Register | Step


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request succeeded, says the worker."""

    seconds: float = 0.0
    detail: str = ""
    data: dict[str, float] = {}


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The submission raised while serving a request."""

    kind: str
    text: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A `Register` or `Step` raised; the worker lives on."""

    kind: str
    text: str


Reply = Done | Raised | Failed


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Ask the fork server for a worker. Descriptors: channel, one that the clock wakes for each rank (CPU), page, provisions, log."""

    worker: int
    device: str
    scratch: str
    environment: dict[str, str]
    trusted: bool = False
    """Not confined: a baseline, which needs its caches."""
    stack: bool = False
    """The worker will use the compile stack: import it first, so that the fork has it."""
    ranks: int = 1
    """How many processes it consists of, each with a device, or a core, of its own."""
    provided: bool = False
    """Whether there is a descriptor of provisions: what its compile caches hold at first."""
    proved: bool = False
    """Whether a fork server of this host has imported the compile stack, and forked a worker that used CUDA and that afterwards."""


class Kill(msgspec.Struct, frozen=True, tag=True):
    """Ask the fork server to end a worker and all its descendants."""

    worker: int


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """A worker runs under this process id. `top` is the first process of its tree: the worker itself, or what confines it."""

    pid: int
    top: int
    missing: dict[str, str] = {}
    """Layers of containment that it lacks, and why."""
    helpers: tuple[int, ...] = ()
    """Processes of the fork server's own that serve no worker."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """No worker could be started."""

    why: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """How a worker ended: its exit code or signal if it ended by itself, else ``killed``."""

    killed: bool
    code: int
    signal: int
    reason: str = ""
    """What it was ended for, if it took too much of the host."""


ServerRequest = Spawn | Kill
ServerReply = Spawned | Refused | Ended

_encoder = msgspec.msgpack.Encoder()


class Channel:
    """A framed, deadline-aware connection over a Unix stream socket."""

    def __init__(self, sock: socket.socket, limit: int | None = None) -> None:
        self.sock = sock
        self.limit = limit

    def send(self, frame: msgspec.Struct, fds: tuple[int, ...] = (), deadline: float | None = None) -> None:
        """Send one frame, with descriptors.

        Args:
            frame: What to send.
            fds: Descriptors that ride along.
            deadline: `clock.now` time after which to give up: the other side may never read.

        Raises:
            Closed: The other side is gone.
            TimeoutError: The other side did not take the whole frame before the deadline.
        """
        body = _encoder.encode(frame)
        message = _HEADER.pack(len(body)) + body
        self._limit_wait(deadline)
        try:
            if fds:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self.sock.sendmsg([message], ancillary)
                message = message[sent:]
            self.sock.sendall(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed("the other side closed the channel") from error

    def receive(self, kind: object, deadline: float | None = None) -> tuple[msgspec.Struct, list[int]]:
        """Receive one frame of type `kind` and its descriptors.

        Args:
            kind: Struct type or union to decode as.
            deadline: `clock.now` time after which to give up.

        Raises:
            Closed: The other side is gone.
            TimeoutError: Nothing complete came before the deadline.
            ProtocolError: The frame is too long, brings too many descriptors or is no valid `kind`.
        """
        fds: list[int] = []
        try:
            return self._decode(kind, deadline, fds), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _decode(self, kind: object, deadline: float | None, fds: list[int]) -> msgspec.Struct:
        (length,) = _HEADER.unpack(self._read(_HEADER.size, deadline, fds))
        if self.limit is not None and length > self.limit:
            raise ProtocolError(f"a frame of {length} bytes came; at most {self.limit} are allowed")
        body = self._read(length, deadline, fds)
        try:
            frame: msgspec.Struct = msgspec.msgpack.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"a frame came that the protocol does not know: {error}") from error
        return frame

    def _read(self, count: int, deadline: float | None, fds: list[int]) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._limit_wait(deadline)
            try:
                chunk, received, _, _ = socket.recv_fds(self.sock, min(count - len(data), 1 << 20), _MAX_FDS)
            except ConnectionResetError as error:
                raise Closed("the other side closed the channel") from error
            except TimeoutError:
                if deadline is None or now() >= deadline:
                    raise
                continue  # this process was stopped meanwhile
            fds.extend(received)
            if len(fds) > _MAX_FDS:
                raise ProtocolError(f"a frame came with more than {_MAX_FDS} descriptors")
            if not chunk:
                raise Closed("the other side closed the channel")
            data += chunk
        return bytes(data)

    def _limit_wait(self, deadline: float | None) -> None:
        self.sock.settimeout(None if deadline is None else max(deadline - now(), 1e-4))

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
