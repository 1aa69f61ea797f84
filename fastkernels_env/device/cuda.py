"""A CUDA GPU as a device: `cuMemCreate` arenas handed over by descriptor, a spinning clock page, NVML facts."""

from __future__ import annotations

import functools
import mmap
import os
import struct
import time
from collections.abc import Callable, Sequence

import torch

from .. import _cuda
from ..types import DeviceInfo, Peaks
from . import nvml
from .base import Arena, Clock, ClockLost, ClockTimeout, Device, DeviceError, fixed_file

_STOP = 0xFFFF
_WORD = struct.Struct("<Q")
_CHECK_EVERY = 4096
_STEADY = 0.03
"""Largest relative change of a clock within one measurement."""
_CANARY_PRODUCTS = 20

_HOPPER_FLOPS = {"bfloat16": 990e12, "float16": 990e12, "float32": 67e12, "float8": 1980e12}
_PUBLISHED = {
    "H200": Peaks(copy_bytes_per_s=4.8e12, flops_per_s=_HOPPER_FLOPS, link_bytes_per_s=450e9),
    "H100": Peaks(copy_bytes_per_s=3.35e12, flops_per_s=_HOPPER_FLOPS, link_bytes_per_s=450e9),
}
"""Vendor datasheets (SXM parts, dense; NVLink in one direction)."""


class CudaArena(Arena):
    """Physical device memory of its own, never a block of torch's caching allocator.

    The parts of ranks lie on a device each, and one after the other in the judge's address space: to it all of them are on the first.
    """

    def __init__(self, nbytes: int, devices: Sequence[int]) -> None:
        self._mapping, self.size, self.descriptors = _cuda.create(nbytes, devices)
        self.view = self._mapping.view if len(devices) == 1 else self._mapping.view.view(len(devices), self.size)

    def close(self) -> None:
        """Unmap and drop the descriptor."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        if self.descriptors:
            self.descriptors = ()
            del self.view
            self._mapping.close()


class CudaClock(Clock):
    """A shared page: of a rank's two words the first is the command, the second the answer. Both sides spin."""

    def __init__(self, ranks: int = 1) -> None:
        self.ends = ()
        self._starts = [16 * rank for rank in range(ranks)]
        self.page = fixed_file("page", mmap.PAGESIZE)
        self._page = mmap.mmap(self.page, mmap.PAGESIZE)

    def start(self, seconds: float, alive: Callable[[], bool]) -> None:
        """See `Clock.start`."""
        self._wait(seconds, alive)

    def run(
        self, sequence: int, seconds: float, alive: Callable[[], bool], gather: Callable[[], torch.Tensor],
        release: Callable[[], None] | None = None,
    ) -> tuple[float, torch.Tensor]:
        """See `Clock.run`."""
        page = self._page
        torch.cuda.synchronize()
        for at in self._starts:
            _WORD.pack_into(page, at + 8, 0)
        start = time.perf_counter()
        for at in self._starts:
            _WORD.pack_into(page, at, sequence + 1)
        if release is not None:
            release()
        self._wait(seconds, alive)
        words = gather()
        return time.perf_counter() - start, words

    def _wait(self, seconds: float, alive: Callable[[], bool]) -> None:
        """Spin until every rank has set its answer word."""
        page, turns, deadline = self._page, 0, time.perf_counter() + seconds
        for at in self._starts:
            while not _WORD.unpack_from(page, at + 8)[0]:
                turns += 1
                if turns % _CHECK_EVERY == 0:
                    if time.perf_counter() > deadline:
                        raise ClockTimeout
                    if not alive():
                        raise ClockLost

    def stop(self) -> None:
        """End the worker's clock loop."""
        for at in self._starts:
            _WORD.pack_into(self._page, at + 8, 0)
            _WORD.pack_into(self._page, at, _STOP)

    def close(self) -> None:
        """Close the page."""
        self._page.close()
        os.close(self.page)


class CudaDevice(Device):
    """The current CUDA device of this process."""

    kind = "cuda"
    graph = True
    tears = True
    seals_runs = True
    dear_alone = True
    dear_workers = True  # contexts are made one at a time, in 0.1 s on an idle GPU and 0.9 s beside 44 others
    target_seconds = 1e-3

    def __init__(self) -> None:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            self.index = torch.cuda.current_device()
            self.properties = torch.cuda.get_device_properties(self.index)
        except Exception as error:
            raise DeviceError(f"the CUDA device cannot be opened: {error}") from error
        self.torch_device = f"cuda:{self.index}"
        self.cache_bytes = self.properties.L2_cache_size
        self.ring_limit = min(14 << 30, self.properties.total_memory // 8)  # beside it: another ring, its sets, and copies of outputs
        self._shared = False
        self._waste: torch.Tensor | None = None
        self._canary: tuple[torch.Tensor, torch.Tensor] | None = None
        _cuda.forbid_persisting_l2()

    def allocate(self, nbytes: int, ranks: int = 1) -> Arena:
        """A `cuMemCreate` arena; further ranks have the devices after this one.

        Raises:
            DeviceError: The device is out of memory.
        """
        self._make_room(nbytes)
        try:
            return CudaArena(nbytes, range(self.index, self.index + ranks))
        except RuntimeError as error:
            raise DeviceError(f"cannot allocate {nbytes} bytes on {self.torch_device}: {error}") from error

    def _make_room(self, nbytes: int) -> None:
        """Give back what torch keeps for itself, which is lost to dedicated allocations, unless half of the memory stays free anyway.

        Giving back waits for everything that runs on the device, other judges' work too.
        """
        free, total = torch.cuda.mem_get_info(self.index)
        if free - nbytes < total // 2:
            torch.cuda.empty_cache()

    def share(self) -> None:
        """See `Device.share`: rings of up to a 64th of the memory."""
        self._shared = True
        self.ring_limit = min(self.ring_limit, self.properties.total_memory // 64)

    def trim(self) -> None:
        """Empty torch's cache, if the device is shared: others want the memory."""
        if self._shared:
            torch.cuda.empty_cache()

    def short(self) -> bool:
        """See `Device.short`: less than an eighth is free."""
        free, total = torch.cuda.mem_get_info()
        return self._shared and free < total // 8

    def new_clock(self, ranks: int = 1) -> Clock:
        """A page clock."""
        return CudaClock(ranks)

    def most_ranks(self) -> int:
        """One for each device from this one on that it can reach."""
        reached = 1
        while self.index + reached < torch.cuda.device_count() and torch.cuda.can_device_access_peer(self.index, self.index + reached):
            reached += 1
        return reached

    def info(self, ranks: int = 1) -> DeviceInfo:
        """Name, UUID, memory and L2 sizes, clocks and throttle reasons; UUIDs of further devices."""
        others = range(self.index + 1, min(self.index + ranks, torch.cuda.device_count()))
        return DeviceInfo(
            kind="cuda", name=self.properties.name, uuid=str(self.properties.uuid), cores=self.properties.multi_processor_count,
            memory_bytes=self.properties.total_memory, cache_bytes=self.cache_bytes, clocks=self.clocks(),
            peers=tuple(str(torch.cuda.get_device_properties(other).uuid) for other in others),
        )

    def published_peaks(self) -> Peaks | None:
        """The datasheet's rates for this product, if known."""
        return next((peaks for name, peaks in _PUBLISHED.items() if name in self.properties.name), None)

    def measure_peaks(self) -> Peaks:
        """Copy of 4 GB (bytes read plus written) and an 8192-cubed product on random data, median of event timings."""
        copy_rate = self._measure_copy()
        flops = {}
        for dtype, size in ((torch.bfloat16, 8192), (torch.float32, 4096)):
            a = torch.randn(size, size, device=self.torch_device).to(dtype)
            seconds = _median_seconds(functools.partial(torch.mm, a, a, out=torch.empty_like(a)))
            flops[str(dtype).removeprefix("torch.")] = 2 * size**3 / seconds
        torch.cuda.empty_cache()
        return Peaks(copy_bytes_per_s=copy_rate, flops_per_s=flops)

    def _measure_copy(self) -> float:
        source = torch.empty(1 << 30, device=self.torch_device).normal_()
        target = torch.empty_like(source)
        return 2 * source.nbytes / _median_seconds(lambda: target.copy_(source))

    def synchronize(self) -> None:
        """Wait for the judge's own kernels."""
        torch.cuda.synchronize()

    def settle(self) -> None:
        """Wait for the judge's own kernels, and end the privilege of every persisting line in the L2."""
        torch.cuda.synchronize()
        _cuda.reset_persisting_l2()

    def flush(self) -> None:
        """Read a buffer of twice the L2: a write would leave lines behind that the next kernel has to write back."""
        if self._waste is None:
            self._waste = torch.zeros(2 * self.cache_bytes // 4, dtype=torch.int32, device=self.torch_device)
        self._waste.amax()

    def clocks(self) -> dict[str, float]:
        """SM and memory clock, power, temperature, throttle reasons."""
        return nvml.clocks(str(self.properties.uuid))

    def steady(self, before: dict[str, float], after: dict[str, float]) -> bool:
        """Whether clocks stayed within `_STEADY` of each other and nothing slowed the device down."""
        told = [name for name in ("sm_mhz", "memory_mhz") if before.get(name) and name in after]
        same = all(abs(after[name] / before[name] - 1) <= _STEADY for name in told)
        slowed = (int(before.get("throttle_reasons", 0)) | int(after.get("throttle_reasons", 0))) & nvml.SLOWED
        return same and not slowed

    def canary(self) -> float:
        """`_CANARY_PRODUCTS` bf16 products of 4096 cubed, about 4 ms.

        Another process's kernel shares the device by turns of about 2 ms each, so that this takes about twice as long.
        """
        if self._canary is None:
            a = torch.randn(4096, 4096, device=self.torch_device).bfloat16()
            self._canary = a, torch.empty_like(a)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_CANARY_PRODUCTS):
            torch.mm(self._canary[0], self._canary[0], out=self._canary[1])
        torch.cuda.synchronize()
        return time.perf_counter() - start


def _median_seconds(function: Callable[[], object], repeats: int = 11) -> float:
    for _ in range(3):
        function()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return sorted(times)[repeats // 2]
