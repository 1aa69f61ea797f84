"""Replies over which judges died: they are judged with no other evaluation beside them, now and whenever they come again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from ..journal import Entry

_MOST = 4096


class Quarantine:
    """Remembers such replies, by task and text. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def add(self, entry: Entry) -> None:
        """Judge this alone from now on."""
        with self._lock:
            self._known[_key(entry)] = None
            while len(self._known) > _MOST:
                self._known.popitem(last=False)

    def __contains__(self, entry: Entry) -> bool:
        with self._lock:
            return _key(entry) in self._known


def _key(entry: Entry) -> bytes:
    return hashlib.sha256(f"{entry.task}\0{entry.text}".encode("utf-8", "surrogatepass")).digest()
