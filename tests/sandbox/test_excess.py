"""Submissions that take more than their share, or lie to the judge: each ends alone, and the record says why."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastkernels_env import Outcome
from fastkernels_env.protocol import Done, Raised, Spawned

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user this host may lack layers; see test_unprivileged")

MEMORY = {
    "malloc": "kept = [bytearray(b'x' * (64 << 20)) for _ in range(50)]",
    "a mapping that is shared": """
        kept = mmap.mmap(-1, 3 << 30)
        for place in range(0, 3 << 30, 1 << 20): kept[place:place + (1 << 20)] = b"x" * (1 << 20)
    """,
    "a file in memory": """
        files = [os.memfd_create("hog") for _ in range(100)]
        for file in files:
            for _ in range(32): os.write(file, b"x" * (1 << 20))
    """,
    "a file in memory that is only in flight": """
        left, right = socket.socketpair()
        for _ in range(100):
            file = os.memfd_create("hog")
            for _ in range(64): os.write(file, b"x" * (1 << 20))
            socket.send_fds(left, [b"x"], [file])
            os.close(file)
    """,
    "many children": """
        for _ in range(40):
            if os.fork() == 0:
                kept = bytearray(b"x" * (100 << 20))
                time.sleep(100)
        time.sleep(100)
    """,
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_beyond_the_limit_ends_it_and_the_record_says_so(name, hit, python):
    evaluation = hit(python(MEMORY[name] + "\n", honest=False))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert evaluation.reason == "smoke: the submission took more than 1.0 GB of memory"


def test_memory_below_the_limit_is_its_own(hit, python):
    evaluation = hit(python("kept = bytearray(b'x' * (1 << 28))"))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


FULL = {
    "its folder": "open('full', 'ab')",
    "many files": "open(f'full{number}', 'wb')",
    "shared memory": "open('/dev/shm/full', 'ab')",
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_its_own(name, hit, python):
    body = f"""
        files = []
        for number in range(100):
            files.append({FULL[name]})
            for _ in range(32): files[-1].write(bytes(1 << 20))
            files[-1].flush()
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert "No space left on device" in evaluation.reason or "File too large" in evaluation.reason


def test_a_gigabyte_of_output_is_dropped(hit, python):
    body = """
        for _ in range(1024): os.write(1, b"x" * (1 << 20))
        print("the end of it", flush=True)
        raise ValueError("now it is said")
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.CRASHED, evaluation.reason
    assert "now it is said" in evaluation.reason
    assert len(evaluation.feedback) < 20_000


def test_a_fork_bomb_burns_out(hit, python):
    body = """
        while True:
            try: os.fork()
            except OSError: pass
    """
    evaluation = hit(python(body, honest=False))
    assert evaluation.outcome in (Outcome.TIMED_OUT, Outcome.CRASHED), evaluation.reason


def test_descriptors_run_out_for_itself_alone(hit, python):
    body = """
        kept = []
        try:
            while True: kept.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == 24
        assert len(kept) > 500
        for fd in kept: os.close(fd)
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_a_grandchild_of_its_own_session_ends_with_it(hit, python):
    body = """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                for number in range(1, 65):
                    if number not in (9, 19, 32, 33): signal.signal(number, signal.SIG_IGN)
                while True: time.sleep(1)
            os._exit(0)
        os.wait()
    """
    evaluation = hit(python(body))
    assert evaluation.outcome is Outcome.ACCEPTED, evaluation.reason


def test_a_build_that_takes_too_much_memory_is_ended(hit, task_files):
    code = """
        #include <utility>
        template <int... I> int f(std::integer_sequence<int, I...>) { return (0 + ... + I); }
        int g() { return f(std::make_integer_sequence<int, 20000000>{}); }
    """
    evaluation = hit(f"```cpp\n{task_files.texts['cpu']}\n{code}\n```")
    assert evaluation.outcome is Outcome.BUILD_FAILED, evaluation.reason
    assert evaluation.reason == "the build took more than 1.0 GB of memory"


# -- the channel ---------------------------------------------------------------------------------------------------------------

WORDS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=40), st.binary(max_size=40))
VALUES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
FORGED = st.one_of(
    st.binary(max_size=200),
    VALUES.map(msgspec.msgpack.encode),
    st.builds(lambda rest, kind: msgspec.msgpack.encode({**rest, "type": kind}), st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
              st.sampled_from(["Done", "Raised", "Spawned", "Ended", "Load", ""])),
    st.floats().map(lambda number: msgspec.msgpack.encode(Done(number, "done", {"kernels": number}))),
    st.just(msgspec.msgpack.encode(Raised("E", "t" * 10_000))), st.just(msgspec.msgpack.encode(Spawned(1, 1))),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(FORGED, min_size=1, max_size=4), length=st.none() | st.integers(0, 2**32 - 1))
def test_forged_frames_decide_nothing(bodies, length, place, tiny, python):
    """Whatever comes over the real channel, a submission that computes nothing is not accepted and is nobody's fault."""
    evaluator, _ = place
    frames = b"".join((len(body) if length is None else length).to_bytes(4, "little") + body for body in bodies)
    body = f"""
        for name in os.listdir("/proc/self/fd"):
            try: end = socket.socket(fileno=os.dup(int(name)))
            except OSError: continue
            if end.type == socket.SOCK_STREAM:
                end.sendall({frames!r})
                end.shutdown(socket.SHUT_WR)
    """
    evaluation = evaluator.evaluate("tiny_scale", python(body, honest=False))
    assert evaluation.outcome in (Outcome.CRASHED, Outcome.WRONG), evaluation.reason
    assert evaluation.speedup is None


def test_after_all_of_it_an_honest_submission_is_accepted(hit, python):
    assert hit(python("")).outcome is Outcome.ACCEPTED
