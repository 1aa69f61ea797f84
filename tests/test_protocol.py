"""Frames over real sockets: what comes out is what went in, and whatever else comes is refused."""

from __future__ import annotations

import array
import contextlib
import math
import os
import socket
import struct
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env import protocol
from fastkernels_env.protocol import (
    Arm,
    Attach,
    Bind,
    Capture,
    Changes,
    Channel,
    Clock,
    Closed,
    Detach,
    Done,
    Ended,
    Failed,
    Join,
    Kill,
    Load,
    ProtocolError,
    Raised,
    Refused,
    Register,
    Reply,
    Request,
    Run,
    ServerReply,
    ServerRequest,
    Setup,
    Spawn,
    Spawned,
    Step,
    TensorRef,
    Trace,
    Watch,
)

LIMIT = 1 << 16
# Frames that a plain type does not describe are left out here on purpose: every other field comes from its own annotation.
FRAMES = {
    Request: (Join, Load, Attach, Detach, Bind, Setup, Run, Capture, Arm, Clock, Trace, Watch, Changes, Register, Step),
    Reply: (Done, Raised, Failed),
    ServerRequest: (Spawn, Kill),
    ServerReply: (Spawned, Refused, Ended),
}
SCALARS = {
    "str": st.text(max_size=30), "int": st.integers(-(2**40), 2**40), "bool": st.booleans(),
    "float": st.floats(allow_nan=False), "tuple[str, ...]": st.lists(st.text(max_size=8), max_size=4).map(tuple),
    "list[int]": st.lists(st.integers(0, 2**31), max_size=8),
    "tuple[int, ...]": st.lists(st.integers(0, 2**31), max_size=4).map(tuple),
    "list[list[int]]": st.lists(st.lists(st.integers(0, 600), max_size=8), max_size=3),
    "dict[str, str]": st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4),
    "dict[str, float]": st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=4),
}
SIZES = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
REFERENCES = st.builds(
    TensorRef, st.integers(0, 3), st.integers(0, 2**45), SIZES, SIZES, st.sampled_from(["float32", "bfloat16", "int32"])
)
ARGUMENTS = st.one_of(REFERENCES, st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False))
SCALARS["list[list[ArgValue]]"] = st.lists(st.lists(ARGUMENTS, max_size=5), max_size=3)


def frames_of(kind):
    fields = {name: SCALARS[annotation] for name, annotation in kind.__annotations__.items()}
    return st.fixed_dictionaries(fields).map(lambda values: kind(**values))


ALL_FRAMES = st.one_of([st.tuples(st.just(union), frames_of(kind)) for union, kinds in FRAMES.items() for kind in kinds])


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield Channel(ours, limit=LIMIT), theirs
    ours.close()
    theirs.close()


def framed(body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(body) if length is None else length) + body


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_the_strategies_cover_every_frame():
    unions = (Request, Reply, ServerRequest, ServerReply)
    assert {kind for union in unions for kind in union.__args__} == {kind for kinds in FRAMES.values() for kind in kinds}


@settings(max_examples=300)
@given(ALL_FRAMES)
def test_every_frame_survives_the_round_trip(drawn):
    union, frame = drawn
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send(frame)
        received, fds = Channel(theirs).receive(union, soon())
    assert received == frame
    assert type(received) is type(frame)
    assert not fds


@settings(max_examples=30)
@given(st.lists(frames_of(Raised), min_size=2, max_size=5))
def test_frames_keep_their_order_and_borders(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for frame in sent:
            Channel(ours).send(frame)
        channel = Channel(theirs)
        assert [channel.receive(Reply, soon())[0] for _ in sent] == sent


def test_not_a_number_is_still_a_number(ends):
    channel, theirs = ends
    Channel(theirs).send(Done(float("nan")))
    assert math.isnan(channel.receive(Reply, soon())[0].seconds)


def test_descriptors_arrive_and_refer_to_the_same_file(ends, tmp_path):
    channel, theirs = ends
    path = tmp_path / "file"
    path.write_bytes(b"the same file")
    sent = os.open(path, os.O_RDONLY)
    Channel(theirs).send(Attach(0, 13), (sent, sent))
    os.close(sent)
    frame, fds = channel.receive(Request, soon())
    assert frame == Attach(0, 13)
    assert [os.pread(fd, 100, 0) for fd in fds] == [b"the same file"] * 2
    for fd in fds:
        os.close(fd)


def test_a_large_frame_passes_an_unlimited_channel():
    ours, theirs = socket.socketpair()
    frame = Bind([[i] * 8 for i in range(40_000)])
    with ours, theirs:
        sender = threading.Thread(target=Channel(ours).send, args=(frame,))
        sender.start()
        assert Channel(theirs).receive(Request, soon(20))[0] == frame
        sender.join()


def test_a_frame_of_the_limit_passes_and_one_byte_more_does_not(ends):
    channel, theirs = ends
    empty = len(msgspec.msgpack.encode(Raised("", "x" * 60_000))) - 60_000
    sender = Channel(theirs)
    sender.send(Raised("", "x" * (LIMIT - empty)))
    assert len(channel.receive(Reply, soon())[0].text) == LIMIT - empty
    sender.send(Raised("", "x" * (LIMIT - empty + 1)))
    with pytest.raises(ProtocolError, match=f"{LIMIT + 1} bytes"):
        channel.receive(Reply, soon())


def test_an_announced_length_is_refused_before_anything_is_read(ends):
    channel, theirs = ends
    theirs.sendall(struct.pack("<I", 2**32 - 1))
    with pytest.raises(ProtocolError, match="at most"):
        channel.receive(Reply, soon())


@pytest.mark.parametrize("sent", [b"", b"\x05", struct.pack("<I", 9), framed(b"\x82\xa4type", 200)])
def test_a_truncated_frame_is_an_end(ends, sent):
    channel, theirs = ends
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(Closed):
        channel.receive(Reply, soon())


@pytest.mark.parametrize("sent", [b"", b"\x05", struct.pack("<I", 9), framed(b"\x82\xa4type", 200)])
def test_a_truncated_frame_of_a_silent_sender_runs_into_the_deadline(ends, sent):
    channel, theirs = ends
    theirs.sendall(sent)
    with pytest.raises(TimeoutError):
        channel.receive(Reply, soon(0.05))


def test_drops_do_not_stretch_the_deadline(ends):
    channel, theirs = ends
    stop = threading.Event()

    def drip():
        theirs.sendall(struct.pack("<I", 60_000))
        while not stop.wait(0.01):
            with contextlib.suppress(OSError):
                theirs.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeoutError):
        channel.receive(Reply, soon(0.2))
    stop.set()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc1", b"\x93", msgspec.msgpack.encode({"type": "Done", "seconds": "much"}), msgspec.msgpack.encode({"type": "Spawned"}),
        msgspec.msgpack.encode({"seconds": 1.0}), msgspec.msgpack.encode([1, 2]), b"\x82\xa4type\xa4Done\xa6detail\xa2\xff\xfe",
        b"\x82\xa4type\xa4Done\xa4data\xdf\xff\xff\xff\xff", b"\x82\xa4type\xa4Done\xa1x" + b"\x91" * 20_000 + b"\x90",
    ],
    ids=["empty", "opcode", "cut", "field", "other", "untagged", "array", "utf8", "map", "deep"],
)  # fmt: skip
def test_what_is_no_frame_is_refused(ends, body):
    channel, theirs = ends
    theirs.sendall(framed(body))
    with pytest.raises(ProtocolError):
        channel.receive(Reply, soon())


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(body):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(framed(body))
        with contextlib.suppress(ProtocolError):
            frame, _ = Channel(ours, LIMIT).receive(Reply, soon())
            assert isinstance(frame, Done | Raised)


@settings(max_examples=200)
@given(frames_of(Raised), st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_frame_never_raises_anything_else(frame, where, flip):
    body = bytearray(msgspec.msgpack.encode(frame))
    body[where % len(body)] ^= flip
    test_garbage_never_raises_anything_else.hypothesis.inner_test(bytes(body))


def test_a_request_is_no_reply(ends):
    channel, theirs = ends
    Channel(theirs).send(Run([0]))
    with pytest.raises(ProtocolError, match="Run"):
        channel.receive(Reply, soon())


def test_more_descriptors_than_allowed_are_refused_and_closed(ends):
    channel, theirs = ends
    before = open_descriptors()
    theirs.sendall(struct.pack("<I", 1000))
    for _ in range(30):
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()] * 16))])
    with pytest.raises(ProtocolError, match="descriptors"):
        channel.receive(Reply, soon())
    assert open_descriptors() == before


@pytest.mark.parametrize("body", [framed(b"\xc1"), struct.pack("<I", 100), struct.pack("<I", 2**31)], ids=["garbage", "cut", "long"])
def test_descriptors_of_a_refused_frame_are_closed(ends, body):
    channel, theirs = ends
    before = open_descriptors()
    theirs.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()] * 3))])
    with pytest.raises((ProtocolError, TimeoutError)):
        channel.receive(Reply, soon(0.1))
    assert open_descriptors() == before


def test_sending_to_a_closed_channel_says_so(ends):
    channel, theirs = ends
    theirs.close()
    with contextlib.suppress(Closed):
        channel.send(Detach())
    with pytest.raises(Closed):
        channel.send(Detach())


def test_sending_to_one_that_never_reads_ends_at_the_deadline(ends):
    channel, _ = ends
    with pytest.raises(TimeoutError):
        channel.send(Bind([[i] * 8 for i in range(100_000)]), deadline=soon(0.1))


def test_the_module_never_unpickles():
    assert not {"pickle", "marshal", "dill", "cloudpickle"} & set(vars(protocol))
