"""Driver calls: physical memory that crosses a process boundary as a file descriptor, the L2's privileges, rows of graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from cuda.bindings import driver

_FD = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a driver call, or RuntimeError with the driver's name of the error."""
    if int(result[0]):
        raise RuntimeError(f"CUDA driver: {result[0].name}")
    return result[1] if len(result) > 1 else None


def initialise() -> None:
    """Initialise CUDA in this process.

    torch would ask NVML for the number of devices, three times in every process, and each time that library starts anew: 0.4 s of an
    evaluation beside seven others.
    """
    torch.cuda._cached_device_count = torch._C._cuda_getDeviceCount()
    torch.cuda.init()  # type: ignore[no-untyped-call]


def forbid_persisting_l2() -> None:
    """Set aside no L2 for persisting accesses, as far as this context decides."""
    driver.cuCtxSetLimit(driver.CUlimit.CU_LIMIT_PERSISTING_L2_CACHE_SIZE, 0)  # a device without the feature refuses: as good


def reset_persisting_l2() -> None:
    """Turn all persisting lines of the L2 into normal ones."""
    driver.cuCtxResetPersistingL2Cache()


@contextlib.contextmanager
def new_stream() -> Iterator[torch.cuda.Stream]:
    """One stream that does not wait for the default one; torch would make 32 of them, 0.9 s of an evaluation beside seven others.

    Whoever uses it waits for what was launched on it.
    """
    handle = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    try:
        yield torch.cuda.ExternalStream(int(handle))  # type: ignore[no-untyped-call]
    finally:
        driver.cuStreamDestroy(handle)


class _View:
    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3, "strides": None
        }


class Mapping:
    """Physical allocations of one size mapped read-write into this process, one after the other, wherever they lie.

    `view` is uint8 ``[handles * size]`` on `device`, whose kernels reach all of it.
    """

    def __init__(self, handles: Sequence[Any], size: int, device: int) -> None:
        self._handles, self._part, self._size = handles, size, size * len(handles)
        self._address = checked(driver.cuMemAddressReserve(self._size, 0, 0, 0))
        for place, handle in enumerate(handles):
            checked(driver.cuMemMap(int(self._address) + place * size, size, 0, handle, 0))
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = device
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        checked(driver.cuMemSetAccess(self._address, self._size, [access], 1))
        self.view = torch.as_tensor(_View(int(self._address), self._size), device=f"cuda:{device}")

    def close(self) -> None:
        """Unmap and drop this process's reference to the memory."""
        del self.view
        torch.cuda.synchronize()
        for place, handle in enumerate(self._handles):
            checked(driver.cuMemUnmap(int(self._address) + place * self._part, self._part))
            checked(driver.cuMemRelease(handle))
        checked(driver.cuMemAddressFree(self._address, self._size))


def create(nbytes: int, devices: Sequence[int]) -> tuple[Mapping, int, tuple[int, ...]]:
    """Allocate physical memory on each of some devices, mapped into the address space of the first.

    Args:
        nbytes: Least number of bytes on each; rounded up to the allocation granularity.
        devices: Device ordinals. The context of the first must be current.

    Returns:
        The mapping, the size of a part in bytes, and for each part a file descriptor that another process can import.
    """
    made = [_create(nbytes, device) for device in devices]
    sizes, handles = {size for _, size in made}, [handle for handle, _ in made]
    assert len(sizes) == 1
    size = sizes.pop()
    descriptors = tuple(int(checked(driver.cuMemExportToShareableHandle(handle, _FD, 0))) for handle in handles)
    return Mapping(handles, size, devices[0]), size, descriptors


def _create(nbytes: int, device: int) -> tuple[Any, int]:
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.requestedHandleTypes = _FD
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = device
    flag = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
    granularity = checked(driver.cuMemGetAllocationGranularity(properties, flag))
    size = -(-max(nbytes, 1) // granularity) * granularity
    return checked(driver.cuMemCreate(size, properties, 0)), size


def import_descriptor(descriptor: int, size: int, device: int) -> Mapping:
    """Map memory that another process created."""
    return Mapping([checked(driver.cuMemImportFromShareableHandle(descriptor, _FD))], size, device)


class Row:
    """An executable graph that runs captured graphs one after the other.

    Args:
        graphs: Addresses of CUDA graphs, which are copied.

    Raises:
        RuntimeError: The driver refuses, for instance since one of them allocates memory.
    """

    def __init__(self, graphs: Sequence[int]) -> None:
        whole = checked(driver.cuGraphCreate(0))
        try:
            before: list[Any] = []
            for graph in graphs:
                before = [checked(driver.cuGraphAddChildGraphNode(whole, before, len(before), driver.CUgraph(graph)))]
            self._graph = checked(driver.cuGraphInstantiate(whole, 0))
        finally:
            driver.cuGraphDestroy(whole)

    def upload(self, stream: int) -> None:
        """Get it ready to start, without running it."""
        checked(driver.cuGraphUpload(self._graph, stream))

    def launch(self, stream: int) -> None:
        """Start it on a stream of the current context."""
        checked(driver.cuGraphLaunch(self._graph, stream))

    def __del__(self) -> None:
        if hasattr(self, "_graph"):
            driver.cuGraphExecDestroy(self._graph)
