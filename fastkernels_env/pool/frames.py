"""What a pool and its judges tell each other."""

from __future__ import annotations

from typing import Any

import msgspec

from ..journal import Entry


class Order(msgspec.Struct, frozen=True, tag=True):
    """Judge this. `text` is the entry's, in UTF-8 that also holds lone surrogates; `folder` that of a task which is not the library's."""

    entry: Entry
    text: bytes
    folder: str = ""

    @classmethod
    def of(cls, entry: Entry, folder: str = "") -> Order:
        """The order to judge an entry."""
        return cls(msgspec.structs.replace(entry, text=""), entry.text.encode("utf-8", "surrogatepass"), folder)

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Evaluator.evaluate`."""
        entry = self.entry
        return {
            "task": entry.task, "text": self.text.decode("utf-8", "surrogatepass"), "seed": entry.seed, "effort": entry.effort,
            "context": entry.context, "prompt_hash": entry.prompt_hash,
        }


class Enter(msgspec.Struct, frozen=True, tag=True):
    """The judge wants the device alone; the answer is `Alone`."""


class Leave(msgspec.Struct, frozen=True, tag=True):
    """It no longer does."""


class Alone(msgspec.Struct, frozen=True, tag=True):
    """Every other judge of the device is stopped."""


class Report(msgspec.Struct, frozen=True, tag=True):
    """What became of the order: the record, as it is written to a log; empty if the evaluation was interrupted, or could not be made."""

    record: bytes
    error: str = ""
    """Why it could not be made."""


class Sit(msgspec.Struct, frozen=True, tag=True):
    """The judge is about to take the memory that measuring needs; the answer is `Seated`."""


class Rise(msgspec.Struct, frozen=True, tag=True):
    """It has given that back."""


class Seated(msgspec.Struct, frozen=True, tag=True):
    """There is memory enough."""


FromJudge = Enter | Leave | Sit | Rise | Report
ToJudge = Order | Alone | Seated
