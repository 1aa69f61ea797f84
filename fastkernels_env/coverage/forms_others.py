"""Inputs of types for sound, text, time series or robots, where they take them in a form of their own."""

from __future__ import annotations

from typing import Any

import torch

from .form_parts import Form, mask, prompt, sounds, whole
from .inputs import FRAMES, TOKEN, Context, floats
from .values import known


def _features(name: str, frames: int, width: int, masked: str = "") -> Form:
    """Features of a recording, a row a frame."""
    return lambda c: {name: floats(c.batch, frames, width), **({masked: mask(c.batch, frames)} if masked else {})}


def _trajectory(c: Context) -> dict[str, Any]:
    steps, state, action = 20, int(c.sizes.find("state_dim") or 17), int(c.sizes.find("act_dim") or 4)
    return {
        "states": floats(c.batch, steps, state), "actions": floats(c.batch, steps, action), "rewards": floats(c.batch, steps, 1),
        "returns_to_go": floats(c.batch, steps, 1), "timesteps": known(torch.arange(steps).expand(c.batch, steps)),
        "attention_mask": mask(c.batch, steps),
    }


def _series(c: Context) -> dict[str, Any]:
    past = 96 + max(c.sizes.find("lags_sequence") or [0])
    return {"past_values": floats(c.batch, past), "past_time_features": floats(c.batch, past, int(c.sizes.find("num_time_features") or 0)),
            "past_observed_mask": floats(c.batch, past)}


def _codec(c: Context) -> dict[str, Any]:
    samples, hop = 160_000, 320
    return {"input_values": floats(c.batch, 1, samples), "input_features": floats(c.batch, samples // hop, 160)}


def _draft(c: Context) -> dict[str, Any]:
    """A token to draft, after what the model that it drafts for has in its cache."""
    widths = {"full_attention": 512, "sliding_attention": 256}
    states = {kind: tuple(floats(c.batch, 4, 640, width) for _ in "kv") for kind, width in widths.items()}
    return {"inputs_embeds": floats(c.batch, 1, 2 * int(c.sizes.find("backbone_hidden_size"))), "shared_kv_states": states,
            "position_ids": whole(c.batch, 1, value=640)}


def _phonemes(c: Context) -> dict[str, Any]:
    """A sentence of about ten seconds."""
    return {"input_ids": whole(c.batch, 128, value=TOKEN)}


def _block(c: Context) -> dict[str, Any]:
    """A block of tokens to draft, and what the model that they are drafted for made of the tokens before them."""
    width, layers = int(c.sizes.find("hidden_size")), len(c.sizes.find("target_layer_ids"))
    return {"noise_embeds": floats(c.batch, int(c.sizes.find("block_size")), width),
            "context_hidden_states": floats(c.batch, c.length, width * layers)}


def _robot(c: Context) -> dict[str, Any]:
    """Three cameras, what is to be done, and how the robot stands."""
    return {"state": floats(c.batch, 32), "input_ids": whole(c.batch, 48, value=TOKEN), "pixel_values": floats(c.batch, 3, 3, 224, 224),
            "noise": floats(c.batch, 50, 32), "pixel_attention_mask": mask(c.batch, 3, dtype=torch.bool)}


def _heard_tokens(c: Context) -> dict[str, Any]:
    """A text token for every 80 ms that are heard."""
    return {"input_ids": whole(c.batch, c.length, value=TOKEN), "input_features": floats(c.batch, 128, 8 * c.length)}


FORMS: dict[str, dict[str, Form]] = {
    "autoformer": {"batch": _series},
    "cpmant": {"decode": lambda c: {"input_ids": whole(c.batch, c.length, value=TOKEN)}},
    "decision_transformer": {"batch": _trajectory},
    "dots3_note": {
        "prefill": lambda c: {"input_ids": whole(c.batch, c.length, value=TOKEN)},
        "audio": lambda c: {"input_features": floats(c.batch, 128, FRAMES), "chunk_sample_lengths": whole(c.batch, value=480_000)},
    },
    "fastspeech2_conformer": {"batch": _phonemes},
    "fun_asr_nano": {"audio": _features("input_features", 500, 560, "input_features_mask")},
    "gemma3n": {"audio": sounds},
    "gemma4_assistant": {"prefill": _draft},
    "gemma4_unified_assistant": {"prefill": _draft},
    "granite_speech5_ctc": {"batch": _features("input_features", 1500, 320)},
    "jev": {"batch": lambda c: {
        "input_ids": whole(1, c.length, value=TOKEN), "marks": whole(1, 4, value=32), "num_options": whole(1, 4, value=2),
        "question_type_ids": whole(1, 4, value=0),
    }},
    "kyutai_speech_to_text": {"prefill": lambda c: {"input_ids": whole(c.batch, c.length, 33, value=TOKEN)}},
    "moss_transcribe_diarize": {"audio": lambda c: {
        "input_features": floats(c.batch, 80, FRAMES), "input_features_mask": mask(c.batch, FRAMES), "padding_mask": mask(c.batch, 480_000),
    }},
    "muse_glimmer_assistant": {"batch": _block},
    "muse_spark": {"audio": lambda c: {"input_values": floats(c.batch, 84 * 1920)}},
    "musicflamingo": {"audio": lambda c: {
        "input_ids": prompt(c, int(c.sizes.find("audio_token_id")), 750), "input_features": floats(c.batch, 128, FRAMES),
        "input_features_mask": mask(c.batch, FRAMES),
    }},
    "neucodec": {"batch": _codec},
    "perceiver": {"batch": lambda c: {"inputs": floats(c.batch, 2048, 768)}},
    "pi0": {"batch": _robot},
    "speech-encoder-decoder": {"encode": lambda c: {
        "input_values": floats(c.batch, 160_000), "decoder_input_ids": whole(c.batch, 1, value=TOKEN),
    }},
    "vits": {"batch": _phonemes},
    "voxtral_realtime": {"prefill": _heard_tokens},
    "xcodec2": {"batch": _codec},
}
