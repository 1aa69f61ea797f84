"""What a pool and its judges tell each other."""

from __future__ import annotations

import msgspec

from ..journal import Entry


class Order(msgspec.Struct, frozen=True, tag=True):
    """Judge this. `text` is the entry's, in UTF-8 that also holds lone surrogates; `folder` that of a task which was registered by hand."""

    entry: Entry
    text: bytes
    folder: str = ""


class Enter(msgspec.Struct, frozen=True, tag=True):
    """The judge wants the device alone; the answer is `Alone`."""


class Leave(msgspec.Struct, frozen=True, tag=True):
    """It no longer does."""


class Alone(msgspec.Struct, frozen=True, tag=True):
    """Every other judge of the device is stopped."""


class Report(msgspec.Struct, frozen=True, tag=True):
    """What became of the order: the record, as it is written to a log; empty if the evaluation was interrupted."""

    record: bytes


FromJudge = Enter | Leave | Report
ToJudge = Order | Alone
