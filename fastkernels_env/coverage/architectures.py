"""Which architectures the installed transformers knows."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

import msgspec


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of ``transformers.models`` with modelling code."""

    name: str
    model_type: str
    """The model type that stands for it: of several in a folder the one of the same name, or the one that other ones are parts of."""


def architectures() -> list[Architecture]:
    """Every folder of ``transformers.models`` with modelling code that a model type leads to, in order of name.

    Model types without modelling code of their own (another tokenizer, another name for a checkpoint) are no architectures; neither are
    parts of a model (its vision tower, say), which come with the model.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

    folders: dict[str, list[str]] = defaultdict(list)
    for model_type in CONFIG_MAPPING_NAMES:
        folders[model_type_to_module_name(model_type)].append(model_type)
    root = _models_folder()
    return [
        Architecture(name=name, model_type=_representative(name, types))
        for name, types in sorted(folders.items()) if any((root / name).glob("modeling_*.py"))
    ]


def _models_folder() -> Path:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


def _representative(name: str, types: list[str]) -> str:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    for model_type in types:
        if model_type.replace("-", "_") == name:
            return model_type
    whole = [t for t in types if getattr(CONFIG_MAPPING[t], "sub_configs", None)]
    return (whole or [t for t in types if t in MODEL_MAPPING_NAMES] or types)[0]
