"""What `rescore` writes: a log whose records have one reward more, or a CSV file with a row per record."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec.structs import replace

from ..log import open_log
from ..reward import Preset, turn_rewards
from ..types import Evaluation, Reward
from .samples import score

IDS = ("id", "task", "run", "group", "episode", "turn", "policy_step", "outcome")
"""Columns that say which record a row is."""
Line = tuple[bytes, Evaluation]
_Fields = dict[str, msgspec.Raw]
_fields = msgspec.json.Decoder(_Fields)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when all of it is written, so that a failure leaves what was there. Compressed as its name says.

    Raises:
        OSError: It cannot be written.
    """
    if path.exists() and not path.is_file():
        with open_log(path, "wb") as file:
            yield file
        return
    fd, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(fd)
    try:
        with open_log(name, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def rescored_line(line: bytes, reward: Reward) -> bytes:
    """A log's line with a reward put into its ``rewards``; every other field as it was written."""
    fields = _fields.decode(line)
    rewards = _fields.decode(fields["rewards"]) if "rewards" in fields else {}
    rewards[reward.preset] = msgspec.Raw(msgspec.json.encode(reward))
    fields["rewards"] = msgspec.Raw(msgspec.json.encode(rewards))
    return msgspec.json.encode(fields) + b"\n"


def write_log(lines: Iterable[Line], preset: Preset, file: BinaryIO) -> Iterator[tuple[Evaluation, Reward]]:
    """Write a log of rescored lines; yields each record with its reward. Raises as `score`."""
    for line, record in lines:
        reward = score(preset, record)
        file.write(rescored_line(line, reward))
        yield record, reward


def write_csv(lines: Iterable[Line], preset: Preset, file: BinaryIO) -> Iterator[tuple[Evaluation, Reward]]:
    """Write a row per record, in the order of the log; yields each record with its reward.

    The columns are `IDS`, ``total``, ``turn_reward``, and ``part/<name>`` for each part. A fault has empty cells. The ``turn_reward`` is
    what the preset's credit makes of the scores of the record's episode (its records of the same task, run and episode, by turn); a
    record without an episode is one of its own.
    """
    slim = []
    for _, record in lines:
        reward = score(preset, record)
        yield record, reward
        slim.append(replace(record, text="", code="", feedback="", build_log="", checks=[], timings=[], rewards={preset.name: reward}))
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*IDS, "total", "turn_reward", *(f"part/{name}" for name in preset.part_names)])
    for record, turn_reward in zip(slim, _episode_rewards(slim, preset), strict=True):
        reward = record.rewards[preset.name]
        parts = (reward.parts.get(name) for name in preset.part_names)
        writer.writerow([*_ids(record), reward.total, turn_reward, *parts])
    text.detach()


class _Scored(NamedTuple):
    """A scorer of records that hold their reward already."""

    preset: str

    def score(self, evaluation: Evaluation) -> Reward:
        return evaluation.rewards[self.preset]


def _episode_rewards(records: Sequence[Evaluation], preset: Preset) -> list[float | None]:
    """The rewards of turns, in the order of the records; None for a fault."""
    episodes: dict[tuple[str, ...], list[int]] = {}
    for index, record in enumerate(records):
        context = record.context
        key = (record.task, context.run, context.episode) if context.episode else (str(index),)
        episodes.setdefault(key, []).append(index)
    paid: list[float | None] = [None] * len(records)
    for places in episodes.values():
        turns = sorted(places, key=lambda index: records[index].context.turn)
        rewards = turn_rewards(preset.credit, [records[index] for index in turns], _Scored(preset.name))
        for index, reward in zip(turns, rewards, strict=True):
            paid[index] = reward
    return paid


def _ids(record: Evaluation) -> list[object]:
    context = record.context
    return [
        record.id, record.task, context.run, context.group, context.episode, context.turn, context.policy_step, record.outcome.value,
    ]
