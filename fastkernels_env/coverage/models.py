"""Build a model of a type without memory for its weights, at the sizes of its configuration class."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .hooks import IMPLEMENTATION
from .settings import SETTINGS

_PREFERENCE = (
    "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "CAUSAL_LM", "TEXT_TO_WAVEFORM",
    "TEXT_TO_SPECTROGRAM", "CTC", "RNNT", "TDT", "OBJECT_DETECTION", "ZERO_SHOT_OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION",
    "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION", "KEYPOINT_MATCHING", "KEYPOINT_DETECTION", "MASK_GENERATION", "IMAGE_TO_IMAGE",
    "IMAGE_MATTING", "POSE_ESTIMATION", "TIME_SERIES_PREDICTION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "",
    "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION", "VISUAL_QUESTION_ANSWERING", "TEXT_RECOGNITION",
    "TABLE_RECOGNITION", "PRETRAINING", "BACKBONE",
)
"""Heads in the order in which they are looked for: what production runs comes first."""
_FLOAT32 = frozenset(("autoformer", "dab-detr", "deberta", "fastspeech2_conformer", "fnet", "xlnet"))
"""Types whose code does not run in bfloat16."""


class NotBuilt(RuntimeError):
    """Why there is no model of a type."""


def build(model_type: str, implementation: str = IMPLEMENTATION) -> torch.nn.Module:
    """A model on torch's meta device, in bfloat16 and evaluation mode.

    Args:
        model_type: One of transformers' model types.
        implementation: How it computes attention: noted as one call, or one of transformers' own ways.

    Raises:
        NotBuilt: transformers has no class for it, or the class cannot be built from its configuration alone.
    """
    from transformers import CONFIG_MAPPING
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
        MoeCausalLMOutputWithPast.image_outputs = None  # Llama 4 hands it on from its language model, which has none
    try:
        config = CONFIG_MAPPING[model_type](**SETTINGS.get(model_type, {}))
    except Exception as error:
        raise NotBuilt(f"its configuration has no defaults: {_short(error)}") from error
    problem: Exception | None = None
    for found in _classes(config, model_type):
        for attention in dict.fromkeys((implementation, "sdpa", "eager")):
            try:
                return _instance(found, copy.deepcopy(config), attention, torch.float32 if model_type in _FLOAT32 else torch.bfloat16)
            except Exception as error:
                problem = problem or NotBuilt(f"{found.__name__} cannot be built: {_short(error)}")
    raise problem or NotBuilt(f"transformers has no model class for the type {model_type!r}")


def _instance(found: Any, config: Any, implementation: str, dtype: torch.dtype) -> torch.nn.Module:
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        config._attn_implementation = implementation
        model = found._from_config(config, dtype=dtype, attn_implementation=implementation)
    with suppress(Exception):  # most have no experts
        model.set_experts_implementation(IMPLEMENTATION)
    _make_tables(model)
    return model.eval().to("meta")  # type: ignore[no-any-return]


def _make_tables(model: torch.nn.Module) -> None:
    """Make tables of tokens, which take minutes value by value while each operator is looked at."""
    for module in model.modules():
        table = getattr(module, "vocabulary_mapping", None)
        if table is not None:
            with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.device("cpu"):
                for name in ("img2bpe_mapping_tensor", "bpe2img_mapping_tensor"):
                    getattr(table, name, None)


def _classes(config: Any, model_type: str) -> Iterator[Any]:
    """Classes that take a configuration, the one that production runs first."""
    import transformers.models.auto.modeling_auto as auto

    seen: list[Any] = []
    for head in _PREFERENCE:
        table = getattr(auto, f"MODEL_FOR_{head}_MAPPING" if head else "MODEL_MAPPING")
        if type(config) not in table:
            continue
        if head == "MASKED_LM" and type(config) in auto.MODEL_MAPPING:
            table = auto.MODEL_MAPPING  # what production asks of these is an embedding
        found = table[type(config)]
        found = found[0] if isinstance(found, tuple | list) else found
        if found not in seen:
            seen.append(found)
            yield found
    if not seen:
        yield from _by_config(config)


def _by_config(config: Any) -> list[Any]:
    """The last class in the configuration's package that takes the configuration: the one that the others are built up to."""
    import importlib

    from transformers import PreTrainedModel

    package = type(config).__module__.rpartition(".")[0]
    module = importlib.import_module(f"{package}.modeling_{package.rpartition('.')[2]}")
    classes = [
        c for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, PreTrainedModel) and c.__module__ == module.__name__ and getattr(c, "config_class", None) is type(config)
        and not c.__name__.endswith("PreTrainedModel")
    ]
    return sorted(classes, key=lambda c: -inspect.getsourcelines(c)[1])[:1]


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
