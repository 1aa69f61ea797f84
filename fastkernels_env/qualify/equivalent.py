"""Mutations that change nothing, from a task's ``equivalent.toml``: each with its reason."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Literal

import msgspec

from ..task import TaskError
from .mutations import Mutation, enumerate_mutations

if TYPE_CHECKING:
    from ..task import Task


class Equivalent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mutation that no input can tell from its seed. ``before`` and ``after`` are the changed line, for the reader.

    Some are equivalent on the shapes and dtypes of one kind of device alone; `devices` says on which.
    """

    id: str
    seed: str
    before: str
    after: str
    reason: str
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")


def load_equivalents(task: Task) -> dict[str, Equivalent]:
    """Equivalent mutations of a task by id; none without the file.

    Raises:
        TaskError: The file is malformed, or an entry fits no mutation of its seed; the message says which.
    """
    path = task.folder / "equivalent.toml"
    if not path.exists():
        return {}
    name = task.folder.name
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text()).get("equivalent", []), list[Equivalent])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise TaskError(f"task {name!r}: {path} is no list of equivalent mutations: {error}") from error
    seeds = task.seeds()
    known = {(seed, m.id): m for seed in {e.seed for e in entries} & set(seeds) for m in enumerate_mutations(seed, seeds[seed])}
    for entry in entries:
        mutation = known.get((entry.seed, entry.id))
        if mutation is None or mutation.describe(seeds[entry.seed]) != (entry.before, entry.after):
            raise TaskError(
                f"task {name!r}: {path.name} calls {entry.id} of {entry.seed} equivalent, which is no mutation of it (any more); "
                "follow the seed or remove the entry"
            )
    return {entry.id: entry for entry in entries}


def entry_text(mutation: Mutation, source: str) -> str:
    """An entry for ``equivalent.toml``, all but its reason."""
    before, after = mutation.describe(source)
    fields = {"id": mutation.id, "seed": mutation.seed, "before": before, "after": after, "reason": ""}
    return "\n".join(["[[equivalent]]", *(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in fields.items())])
