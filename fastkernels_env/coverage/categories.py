"""The category of an architecture, by what transformers says that it is for."""

from __future__ import annotations

CATEGORIES = ("llm", "linear_attn", "vision", "multimodal", "edge", "3d_robotics", "recsys", "world")

LINEAR_TASKS = frozenset((
    "conv1d_update", "conv1d_varlen", "ssm_update", "selective_scan", "ssd_chunk_scan", "chunk_gla", "gla_recurrent", "gdn_decode",
    "gdn_chunk", "kda_chunk", "rwkv_scan", "rg_lru", "mlstm",
))
_THREE_D = frozenset(("pi0", "decision_transformer", "esm", "esmc", "esmfold2", "evolla"))
_WORLD = frozenset((
    "vjepa2", "videomae", "timesformer", "vivit", "videoprism", "cosmos3_edge", "cosmos3_omni", "timesfm", "timesfm2_5", "autoformer",
    "informer", "patchtst", "patchtsmixer", "time_series_transformer",
))
"""Models of how something goes on in time: video and time series."""
_BY_TABLE = (
    ("multimodal", ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "ZERO_SHOT_IMAGE_CLASSIFICATION", "VISUAL_QUESTION_ANSWERING",
                    "DOCUMENT_QUESTION_ANSWERING", "ZERO_SHOT_OBJECT_DETECTION", "RETRIEVAL")),
    ("edge", ("OBJECT_DETECTION", "TEXT_RECOGNITION", "TABLE_RECOGNITION")),
    ("vision", ("SPEECH_SEQ_2_SEQ", "CTC", "RNNT", "TDT", "TEXT_TO_WAVEFORM", "TEXT_TO_SPECTROGRAM", "AUDIO_CLASSIFICATION")),
    ("recsys", ("MASKED_LM", "NEXT_SENTENCE_PREDICTION")),
    ("llm", ("SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM")),
    ("vision", ("VIDEO_CLASSIFICATION", "DEPTH_ESTIMATION", "SEMANTIC_SEGMENTATION", "UNIVERSAL_SEGMENTATION", "MASK_GENERATION", "IMAGE")),
    ("recsys", ("TEXT_ENCODING", "SEQUENCE_CLASSIFICATION")),
)


def category_of(name: str, model_type: str, tasks: set[str], image_net: bool) -> str:
    """The category.

    Args:
        name: The architecture.
        model_type: Its model type.
        tasks: Tasks that stand for its calls.
        image_net: Whether it works on images with convolutions and without attention.
    """
    import transformers.models.auto.modeling_auto as auto

    if name in _THREE_D:
        return "3d_robotics"
    if name in _WORLD:
        return "world"
    found = next((
        category for category, heads in _BY_TABLE
        if any(model_type in getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in heads)
    ), "vision")
    if found == "llm" and tasks & LINEAR_TASKS:
        return "linear_attn"
    return "edge" if found == "vision" and image_net else found
