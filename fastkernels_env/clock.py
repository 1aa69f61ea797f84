"""Time as a judge counts it: moments in which it is stopped, so that another judge of the device can measure, do not pass.

Deadlines and budgets go by it. A judge that shares its device has a page on which those who stop it add up for how long they did.
"""

from __future__ import annotations

import mmap
import struct
import time

_SECONDS = struct.Struct("=d")
_page: mmap.mmap | None = None


def now() -> float:
    """Seconds since some moment, without those in which this process was stopped."""
    return time.perf_counter() - stopped()


def stopped() -> float:
    """Seconds for which this process was stopped so far."""
    return 0.0 if _page is None else float(_SECONDS.unpack_from(_page)[0])


def adopt(descriptor: int) -> None:
    """Let this process go by the page behind a descriptor; see `Stops`."""
    global _page
    _page = mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ)


class Stops:
    """The page of one judge, for the one who stops it.

    Args:
        descriptor: A file of a page.
    """

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)

    def add(self, seconds: float) -> None:
        """Note that it was stopped for so long; call it before it goes on."""
        _SECONDS.pack_into(self._page, 0, float(_SECONDS.unpack_from(self._page)[0]) + seconds)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()
