"""The CPU as a device: memory that two processes share, a clock that the other side cannot stop."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from fastkernels_env.device import DeviceError, open_device, resolve
from fastkernels_env.device.base import ClockLost, ClockTimeout
from fastkernels_env.device.cpu import CpuClock, CpuDevice
from fastkernels_env.worker.session import STOP


@pytest.fixture(scope="module")
def device():
    return CpuDevice()


@pytest.fixture
def clock(device):
    made = device.new_clock()
    yield made
    made.close()


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def nothing():
    return torch.zeros(1)


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 4097, 1_000_003])
def test_an_arena_is_at_least_as_large_as_asked_for_and_zero(device, nbytes):
    arena = device.allocate(nbytes)
    assert arena.size >= max(nbytes, 1)
    assert arena.view.numel() == arena.size
    assert not arena.view.any()
    arena.close()


def test_what_one_side_writes_the_other_reads(device):
    arena = device.allocate(5000)
    arena.view[0] = 41
    code = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), int(sys.argv[2])); m[4999] = m[0] + 1"
    subprocess.run([sys.executable, "-c", code, str(arena.descriptors[0]), str(arena.size)], pass_fds=arena.descriptors, check=True)
    assert int(arena.view[4999]) == 42
    arena.close()


def test_arenas_leave_nothing(device):
    before = descriptors()
    for _ in range(5):
        arena = device.allocate(1 << 20)
        arena.view.fill_(1)
        arena.close()
        arena.close()
    del arena
    assert descriptors() == before


@pytest.mark.parametrize("size", [0, 4096, 1 << 20])
def test_nobody_can_change_the_size_of_shared_memory(device, clock, size):
    """A mapping whose file was cut short ends whoever touches it."""
    arena = device.allocate(8192)
    for descriptor in (*arena.descriptors, clock.page):
        if os.fstat(descriptor).st_size != size:
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
    arena.close()


def test_a_view_outlives_its_arena(device):
    arena = device.allocate(4096)
    view = arena.view[:10]
    arena.close()
    view.fill_(3)
    assert view.tolist() == [3] * 10


class Worker(threading.Thread):
    """One rank's side of the clock, on its descriptor."""

    def __init__(self, clock, work=lambda sequence: None, ready=True, rank=0):
        super().__init__(daemon=True)
        self.end = os.dup(clock.ends[rank])
        self.work, self.served = work, []
        self.ready = ready
        self.start()

    def run(self):
        if self.ready:
            os.eventfd_write(self.end, 1)
        with contextlib.suppress(BrokenPipeError):  # the test gave up on this worker
            while (command := os.eventfd_read(self.end)) != STOP:
                self.served.append(command - 1)
                self.work(command - 1)
                os.eventfd_write(self.end, 1)
        os.close(self.end)


def run(clock, sequence=0, seconds=5.0, alive=lambda: True, gather=nothing):
    clock.start(seconds, alive)
    return clock.run(sequence, seconds, alive, gather)


def test_the_worker_is_told_which_sequence(clock):
    for sequence in (0, 1, 7):
        worker = Worker(clock)
        run(clock, sequence)
        clock.stop()
        worker.join(5)
        assert worker.served == [sequence]


def test_a_stopped_worker_is_released_once_go_is_there(clock):
    released = threading.Event()
    worker = Worker(clock)
    clock.start(5.0, lambda: True)

    def release():
        deadline = time.monotonic() + 5
        while not worker.served and time.monotonic() < deadline:
            time.sleep(0.001)  # this worker was not stopped, so it starts as soon as it is told
        released.set()

    clock.run(3, 5.0, lambda: True, nothing, release)
    clock.stop()
    worker.join(5)
    assert released.is_set()
    assert worker.served == [3]


def test_the_clock_runs_until_the_words_are_gathered(clock):
    worker = Worker(clock, lambda _: time.sleep(0.05))

    def gather():
        time.sleep(0.05)
        return torch.arange(3)

    elapsed, words = run(clock, gather=gather)
    clock.stop()
    worker.join(5)
    assert words.tolist() == [0, 1, 2]
    assert elapsed >= 0.1


def test_gathering_comes_after_the_work(clock):
    order = []
    worker = Worker(clock, lambda _: order.append("worked"))
    run(clock, gather=lambda: (order.append("gathered"), nothing())[1])
    clock.stop()
    worker.join(5)
    assert order == ["worked", "gathered"]


def test_a_worker_that_never_answers_times_out(clock):
    with pytest.raises(ClockTimeout):
        run(clock, seconds=0.1)


def test_a_worker_that_stops_answering_times_out(clock):
    woken = threading.Event()
    worker = Worker(clock, lambda _: woken.wait(5))
    with pytest.raises(ClockTimeout):
        run(clock, seconds=0.3)
    woken.set()
    clock.stop()
    worker.join(5)  # its descriptor is closed here, not while a later test counts them
    assert not worker.is_alive()


def test_a_worker_of_several_ranks_is_done_when_the_slowest_is(device):
    clock = device.new_clock(3)
    ranks = [Worker(clock, lambda _, rank=rank: time.sleep(0.05 * rank), rank=rank) for rank in range(3)]
    seconds, _ = run(clock, 4)
    clock.stop()
    for rank in ranks:
        rank.join(5)
    assert seconds >= 0.1
    assert [rank.served for rank in ranks] == [[4]] * 3
    clock.close()


def test_ranks_have_parts_of_their_own(device):
    arena = device.allocate(5000, ranks=2)
    assert arena.view.shape == (2, arena.size)
    arena.view[1].fill_(7)
    code = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), int(sys.argv[2])); m[0] += m[4999]"
    subprocess.run([sys.executable, "-c", code, str(arena.descriptors[1]), str(arena.size)], pass_fds=[arena.descriptors[1]], check=True)
    assert (int(arena.view[1, 0]), int(arena.view[0].max())) == (14, 0)
    before, view = descriptors(), arena.view
    arena.close()
    arena.close()
    assert descriptors() == before - 2
    assert int(view[1, 1]) == 7  # until nobody looks at it any more
    address = view.data_ptr()
    del view, arena
    gc.collect()
    assert f"{address:x}-" not in Path("/proc/self/maps").read_text()


def test_a_worker_that_is_gone_is_lost(clock):
    with pytest.raises(ClockLost):
        run(clock, alive=lambda: False)


def test_a_clock_that_the_worker_closed_is_lost(clock):
    end = socket.socket(fileno=os.dup(clock.ends[0]))
    os.eventfd_write(clock.ends[0], 1)
    end.shutdown(socket.SHUT_RDWR)
    with pytest.raises((ClockLost, ClockTimeout)):
        run(clock, seconds=0.3)
    end.close()


def test_a_worker_that_reads_nothing_cannot_block_the_judge(clock):
    def fill():
        for _ in range(100_000):
            clock.stop()

    with pytest.raises(ClockLost):
        fill()


def test_a_worker_that_answers_without_end_cannot_block_the_judge(clock):
    stop = threading.Event()

    def flood():
        end = socket.socket(fileno=os.dup(clock.ends[0]))
        end.setblocking(False)
        while not stop.is_set():
            try:
                end.send(bytes(8))
            except BlockingIOError:
                time.sleep(0.001)
        end.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(20):
            run(clock, seconds=2.0)
    except ClockLost:
        pass
    finally:
        stop.set()
        thread.join()


def test_a_worker_that_takes_its_answers_back_cannot_block_the_judge(clock):
    """It can read what the judge sent, never what it sent itself."""
    os.eventfd_write(clock.ends[0], 1)
    thief = socket.socket(fileno=os.dup(clock.ends[0]))
    assert select.select([thief], [], [], 0.1)[0] == []
    worker = Worker(clock, ready=False)
    run(clock, seconds=5.0)
    clock.stop()
    worker.join(5)
    thief.close()


def test_clocks_leave_nothing(device):
    before = descriptors()
    for _ in range(5):
        device.new_clock().close()
    assert descriptors() == before


def test_the_device_describes_this_machine(device):
    info = device.info()
    assert info.kind == "cpu"
    assert info.name
    assert info.cores == len(os.sched_getaffinity(0))
    assert info.memory_bytes > 1 << 28
    assert info.cache_bytes >= 1 << 17
    assert device.cache_bytes == info.cache_bytes
    assert device.published_peaks() is None


def test_while_judging_there_is_one_thread_and_afterwards_as_many_as_before(device):
    before = torch.get_num_threads()
    with device.judging():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), device.judging():
        raise KeyError
    assert torch.get_num_threads() == before


def test_devices_by_name():
    assert resolve("cpu") == "cpu"
    assert resolve("auto") in ("cpu", "cuda")
    assert isinstance(open_device("cpu"), CpuDevice)
    with pytest.raises(DeviceError, match="expected device 'auto', 'cpu' or 'cuda', got 'tpu'"):
        resolve("tpu")
    if resolve("auto") == "cpu":
        with pytest.raises(DeviceError, match="no GPU"):
            resolve("cuda")


def test_the_clock_is_of_the_declared_kind(clock):
    assert isinstance(clock, CpuClock)
