"""The CPU as a device: memfd arenas, a clock over a socket pair (the judge blocks: a small host has no core to spin on)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ..types import DeviceInfo, Peaks
from .base import Arena, Clock, ClockLost, ClockTimeout, Device, fixed_file

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_MAP_FIXED = 0x10
_STOP = 0xFFFF
_POLL_MS = 200
_WORD = struct.Struct("=Q")
_DEFAULT_CACHE = 32 << 20
_SHARED_CACHE_PER_CORE = 16 << 20
"""What a core of a virtual machine is taken to have of the last-level cache: it is told of the whole chip's, and not of its share."""


class CpuArena(Arena):
    """A memfd mapped shared; one for each rank, so that a rank is handed no other's, and in the judge one after the other."""

    def __init__(self, nbytes: int, ranks: int = 1) -> None:
        self.size = max(-(-nbytes // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        self.descriptors = tuple(fixed_file("arena", self.size) for _ in range(ranks))
        if ranks == 1:
            self.view = torch.frombuffer(mmap.mmap(self.descriptors[0], self.size), dtype=torch.uint8)
        else:
            self.view = torch.frombuffer(map_in_a_row(self.descriptors, self.size), dtype=torch.uint8).view(ranks, self.size)

    def close(self) -> None:
        """Drop the descriptor; the mapping goes with the last tensor that refers to it."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        if self.descriptors:
            self.descriptors = ()
            del self.view


def map_in_a_row(descriptors: Sequence[int], size: int) -> ctypes.Array[ctypes.c_char]:
    """Map files of one size one after the other; the mapping goes with the last reference to it.

    Raises:
        OSError: The kernel refuses.
    """
    total = size * len(descriptors)
    start = _map(None, total, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    buffer = (ctypes.c_char * total).from_address(start)
    weakref.finalize(buffer, _libc.munmap, ctypes.c_void_p(start), ctypes.c_size_t(total))
    for place, descriptor in enumerate(descriptors):
        _map(start + place * size, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
    return buffer


def _map(address: int | None, size: int, access: int, flags: int, descriptor: int) -> int:
    mapped = _libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(size), access, flags, descriptor, ctypes.c_long(0))
    if mapped == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap: {os.strerror(number)}")
    return int(mapped)


class CpuClock(Clock):
    """A socket pair for each rank that carries 64-bit words: the word sent to the worker names the sequence.

    To the worker its end looks like an event descriptor. It is no eventfd because both sides would share that one's counter and
    flags: a worker that drains or fills it could make the judge block for ever.
    """

    def __init__(self, ranks: int = 1) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(ranks)]
        self._sockets, self._worker_ends = [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
        self._polls = []
        for mine in self._sockets:
            mine.setblocking(False)
            poll = select.poll()
            poll.register(mine, select.POLLIN)
            self._polls.append(poll)
        self.ends = tuple(theirs.fileno() for theirs in self._worker_ends)
        self.page = fixed_file("page", mmap.PAGESIZE)

    def start(self, seconds: float, alive: Callable[[], bool]) -> None:
        """See `Clock.start`."""
        self._wait(seconds, alive)

    def run(
        self, sequence: int, seconds: float, alive: Callable[[], bool], gather: Callable[[], torch.Tensor],
        release: Callable[[], None] | None = None,
    ) -> tuple[float, torch.Tensor]:
        """See `Clock.run`."""
        with _on_last_core():
            start = time.perf_counter()
            self._send(sequence + 1)
            if release is not None:
                release()
            self._wait(seconds, alive)
            words = gather()
            return time.perf_counter() - start, words

    def _wait(self, seconds: float, alive: Callable[[], bool]) -> None:
        """Block until every rank has answered."""
        deadline = time.perf_counter() + seconds
        for mine, poll in zip(self._sockets, self._polls, strict=True):
            while not poll.poll(_POLL_MS):
                if time.perf_counter() > deadline:
                    raise ClockTimeout
                if not alive():
                    raise ClockLost
            mine.recv(_WORD.size)

    def _send(self, word: int) -> None:
        try:
            for mine in self._sockets:
                mine.send(_WORD.pack(word))
        except OSError as error:  # full, since the worker does not read, or closed
            raise ClockLost from error

    def stop(self) -> None:
        """End the worker's clock loop.

        Raises:
            ClockLost: The worker is gone.
        """
        self._send(_STOP)

    def close(self) -> None:
        """Close the descriptors."""
        for end in (*self._sockets, *self._worker_ends):
            end.close()
        os.close(self.page)


class CpuDevice(Device):
    """The host's processor."""

    kind = "cpu"
    torch_device = "cpu"
    graph = False
    tears = False
    seals_runs = False
    target_seconds = 4e-3
    ring_limit = 768 << 20

    def __init__(self) -> None:
        self.cache_bytes = _last_level_cache()
        self.processors = frozenset(os.sched_getaffinity(0))
        self._waste: torch.Tensor | None = None

    def allocate(self, nbytes: int, ranks: int = 1) -> Arena:
        """A memfd arena."""
        return CpuArena(nbytes, ranks)

    def new_clock(self, ranks: int = 1) -> Clock:
        """A clock over socket pairs."""
        return CpuClock(ranks)

    def most_ranks(self) -> int:
        """One for each core."""
        return len(self.processors)

    def info(self, ranks: int = 1) -> DeviceInfo:
        """Processor name, cores, memory, current clock where the kernel tells it."""
        fields = _cpuinfo()
        return DeviceInfo(
            kind="cpu", name=fields.get("model name", "unknown CPU"), cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), cache_bytes=self.cache_bytes,
            clocks={"mhz": float(fields["cpu MHz"])} if "cpu MHz" in fields else {},
        )

    def published_peaks(self) -> Peaks | None:
        """None: there is no table of CPUs here."""
        return None

    def measure_peaks(self) -> Peaks:
        """Copy of 128 MB (bytes read plus written) and a product of 1024 (bfloat16: 512) cubed on all cores, best of several."""
        threads = torch.get_num_threads()
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        try:
            return self._measure_peaks()
        finally:
            torch.set_num_threads(threads)

    @staticmethod
    def _measure_peaks() -> Peaks:
        source = torch.rand(32 << 20)
        target = torch.empty_like(source)
        copy = _best_seconds(lambda: target.copy_(source))
        flops = {}
        for dtype, size in ((torch.float32, 1024), (torch.bfloat16, 512)):  # without hardware for it bfloat16 takes seconds at 1024
            a = torch.rand(size, size, dtype=dtype)
            product = functools.partial(torch.mm, a, a, out=torch.empty_like(a))
            flops[str(dtype).removeprefix("torch.")] = 2 * size**3 / _best_seconds(product)
        flops["bfloat16"] = max(flops["bfloat16"], flops["float32"])  # products may be done in fp32
        return Peaks(copy_bytes_per_s=2 * source.nbytes / copy, flops_per_s=flops)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def settle(self) -> None:
        """Nothing to wait for: the judge has one thread (see `judging`)."""

    def flush(self) -> None:
        """Read a buffer as large as the cache."""
        if self._waste is None:
            self._waste = torch.ones(self.cache_bytes // 4)
        self._waste.amax()

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Give the judge one thread: its idle OpenMP threads would spin on cores that workers are timed on, and where something else
        keeps a core busy, every parallel operation would wait for a scheduler's quantum.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _on_last_core() -> Iterator[None]:
    """Keep this thread off the core on which a worker's main thread wakes.

    Where both meet, that thread goes to a core that one of its bound OpenMP threads needs, and the two take turns until the scheduler
    moves one of them: 4 to 10 ms, longer than most blocks.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _best_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _last_level_cache() -> int:
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
    told = max(sizes, default=_DEFAULT_CACHE)
    virtual = "hypervisor" in _cpuinfo().get("flags", "").split()
    return min(told, _SHARED_CACHE_PER_CORE * len(os.sched_getaffinity(0))) if virtual else told
