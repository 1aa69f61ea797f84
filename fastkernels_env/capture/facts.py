"""Configuration facts of models: the shipped ones by name, or a ``config.json``. Shapes follow from them; weights and a network are not
needed.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

_SHARDED = (
    "num_attention_heads", "num_key_value_heads", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size",
    "vocab_size",
)
"""Fields that tensor parallelism divides between ranks. There is at least one key-value head on each."""


class FactsError(ValueError):
    """There is no such model, or its configuration cannot be used; the message says what to do."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shapes follow from.

    Attributes:
        name: As rows name the model.
        revision: Which configuration the facts are from.
        kind: Model type in `transformers`.
        config: Fields of its configuration.
    """

    revision: str
    kind: str
    config: dict[str, Any]
    name: str = ""

    def sharded(self, ranks: int) -> Facts:
        """The facts of one of several ranks of tensor parallelism.

        Raises:
            FactsError: Something does not divide evenly.
        """
        if ranks == 1:
            return self
        config = dict(self.config)
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
        for field in _SHARDED:
            if field not in config:
                continue
            if config[field] % ranks and not (field == "num_key_value_heads" and config[field] < ranks):
                raise FactsError(f"{self.name}: {field} = {config[field]} does not divide by {ranks} ranks; choose another number")
            config[field] = max(config[field] // ranks, 1)
        return msgspec.structs.replace(self, config=config)


def shipped() -> dict[str, Facts]:
    """The models of `models.toml`, by name."""
    read = tomllib.loads(resources.files(__package__).joinpath("models.toml").read_text())
    return {name: msgspec.convert({"name": name, **values}, Facts) for name, values in read.items()}


def load(name: str) -> Facts:
    """A shipped model by name, or the configuration in a folder or file (``config.json`` as `transformers` writes it).

    Raises:
        FactsError: There is neither.
    """
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if file.suffix != ".json":
        raise FactsError(f"there is no model {name!r}; known are {', '.join(known)}, or name a config.json, its folder, or a script (.py)")
    try:
        text = file.read_text()
        origin = f"{file.name} with SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return from_config(json.loads(text), path.resolve().name if path.is_dir() else file.stem, origin)
    except (OSError, ValueError) as error:
        raise FactsError(f"{file} cannot be read as a model's configuration: {error}") from error


def from_config(config: Mapping[str, Any], name: str, origin: str) -> Facts:
    """The facts in a configuration of `transformers`, as plain data.

    Raises:
        FactsError: It names no model type.
    """
    fields = dict(config)
    kind = fields.pop("model_type", None)
    if not isinstance(kind, str):
        raise FactsError(f"{origin} has no model_type; expected a configuration as transformers writes it")
    written = fields.pop("transformers_version", None)
    revision = origin + (f", transformers {written}" if written else "")
    return Facts(name=str(fields.get("_name_or_path") or name), revision=revision, kind=kind, config=fields)
