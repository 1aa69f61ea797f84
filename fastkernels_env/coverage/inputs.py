"""Inputs without data, by the name of the argument that takes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .values import known

TOKEN = 7
"""The id of every token: an ordinary one, so that no model takes it for an image's place."""
PATCHES = 32
"""Height and width, in patches, of an image that comes as patches."""
FRAMES = 3000
"""Length of a spectrogram: 30 seconds at 100 frames a second."""
SAMPLES = 160_000
"""Length of a recording: 10 seconds at 16 kHz."""

Candidates = list[torch.Tensor]


class Sizes:
    """Looks sizes up in a configuration and the ones nested in it."""

    def __init__(self, config: Any) -> None:
        self._configs = list(_nested(config))

    def find(self, *names: str, part: str = "") -> Any:
        """The first of these settings that is set; None if none is.

        Args:
            names: Names of settings, in the order of preference.
            part: Look into nested configurations of this name first (``vision``).
        """
        ordered = sorted(self._configs, key=lambda c: not (part and part in c[0]))
        for name in names:
            for _, config in ordered:
                value = getattr(config, name, None)
                if isinstance(value, int | float | str | list | tuple) and not isinstance(value, bool):
                    return value
        return None


def _nested(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, config
    for name in sorted(getattr(config, "sub_configs", None) or {}):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, dict):
            yield from _nested(part, f"{path}.{name}")


def longest(config: Any) -> int:
    """How many tokens a model's positions reach; a large number where nothing says so."""
    limit = Sizes(config).find("max_position_embeddings", "n_positions", "max_target_positions", "context_length", part="text")
    return int(limit) if isinstance(limit, int) and limit > 0 else 1 << 20


def combinations(names: Sequence[str], config: Any, batch: int, length: int) -> Iterator[dict[str, torch.Tensor]]:
    """Ways to fill arguments, most likely first. Arguments that are not known here are left out.

    Args:
        names: Names of arguments.
        config: The model's configuration.
        batch: How many sequences, images or recordings.
        length: Tokens of a sequence.
    """
    sizes = Sizes(config)
    context = Context(sizes, batch, length, frozenset(names))
    with torch.device("cpu"):
        made = {name: _MAKERS[name](context) for name in names if name in _MAKERS}
    most = max((len(c) for c in made.values()), default=1)
    for choice in itertools.islice(itertools.product(*made.values()), max(8, most)):
        yield dict(zip(made, choice, strict=True))


class Context:
    """What inputs are made for: a model's sizes, a batch, a length."""

    def __init__(self, sizes: Sizes, batch: int, length: int, names: frozenset[str]) -> None:
        self.sizes, self.batch, self.length, self.names = sizes, batch, length, names

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of an image."""
        size = self.sizes.find("image_size", "img_size", "input_size", "resolution", part="vision") or 224
        return (int(size[0]), int(size[-1])) if isinstance(size, list | tuple) else (int(size), int(size))

    @property
    def channels(self) -> int:
        """Of an image."""
        return int(self.sizes.find("num_channels", "in_channels", "in_chans", "num_input_channels", part="vision") or 3)

    @property
    def patch(self) -> int:
        """Side of a patch."""
        size = self.sizes.find("patch_size", "spatial_patch_size", part="vision") or 16
        return int(size[-1] if isinstance(size, list | tuple) else size)

    @property
    def mels(self) -> int:
        """Bands of a spectrogram."""
        names = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "feature_projection_input_dim", "input_dim")
        return int(self.sizes.find(*names, part="audio") or 80)


def floats(*shape: int) -> torch.Tensor:
    """Numbers that nothing is known of."""
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def _tokens(c: Context) -> Candidates:
    return [known(torch.full((c.batch, c.length), TOKEN))]


def _ones(c: Context) -> Candidates:
    return [known(torch.ones(c.batch, c.length, dtype=torch.int64))]


def _zeros(c: Context) -> Candidates:
    return [known(torch.zeros(c.batch, c.length, dtype=torch.int64))]


def _images(c: Context) -> Candidates:
    height, width = c.image
    b, ch = c.batch, c.channels
    temporal = int(c.sizes.find("temporal_patch_size", "patch_temporal", part="vision") or 1)
    frames = int(c.sizes.find("num_frames", "frames", "frames_per_clip", part="vision") or 8)
    flat = floats(b * PATCHES**2, ch * temporal * c.patch**2)
    plain = [floats(b, ch, height, width), floats(b, 1, ch, height, width), floats(b, frames, ch, height, width)]
    others = [floats(b, PATCHES**2, ch * temporal * c.patch**2), floats(b * PATCHES**2, ch, c.patch, c.patch), floats(b, ch, 640, 640),
              floats(b, ch, 384, 384), floats(b, ch, 1024, 1024), floats(b, ch, 1536, 1536), floats(b, 2, ch, height, width)]
    return [flat, *others[:2], *plain] if c.names & _GRIDS else [*plain, flat, *others]


def _videos(c: Context) -> Candidates:
    height, width = c.image
    frames = int(c.sizes.find("frames_per_clip", "num_frames", "frames", part="vision") or 16)
    return [floats(max(1, c.batch // 8), frames, c.channels, height, width)]


def _spectrograms(c: Context) -> Candidates:
    b, m = c.batch, c.mels
    shapes = ((m, FRAMES), (FRAMES, m), (1, 1001, 64), (1, 1024, m), (128, FRAMES), (FRAMES, 160), (FRAMES, 128))
    return [floats(b, *shape) for shape in shapes]


def _recordings(c: Context) -> Candidates:
    b = c.batch
    return [floats(b, SAMPLES), floats(b, 1, SAMPLES), floats(b, 1024, 128), floats(b, 1, 240_000), floats(b, 2, SAMPLES)]


def _grid(c: Context) -> Candidates:
    return [known(torch.tensor([[1, PATCHES, PATCHES]] * c.batch))]


def _grid_2d(c: Context) -> Candidates:
    return [known(torch.tensor([[PATCHES, PATCHES]] * c.batch))]


def _image_sizes(c: Context) -> Candidates:
    return [known(torch.tensor([list(c.image)] * c.batch))]


def _patch_mask(c: Context) -> Candidates:
    height, width = c.image
    return [known(torch.ones(c.batch, PATCHES**2, dtype=torch.int64)), known(torch.ones(c.batch, 1, height, width, dtype=torch.bool)),
            known(torch.ones(c.batch, height, width, dtype=torch.int64))]


def _frame_mask(c: Context) -> Candidates:
    return [known(torch.ones(c.batch, FRAMES, dtype=torch.int64)), known(torch.ones(c.batch, FRAMES, dtype=torch.bool))]


def _sample_mask(c: Context) -> Candidates:
    return [known(torch.ones(c.batch, SAMPLES, dtype=torch.int64))]


def _flattened(c: Context) -> Candidates:
    return [floats(c.batch, 2048, c.channels * c.patch**2 + 2)]


def _high_resolution(c: Context) -> Candidates:
    return [floats(c.batch, c.channels, 1024, 1024)]


def _robot_state(c: Context) -> Candidates:
    return [floats(c.batch, int(c.sizes.find("max_state_dim", "state_dim") or 32))]


def _boxes(c: Context) -> Candidates:
    return [known(torch.ones(c.batch, c.length, 4, dtype=torch.int64)), floats(c.batch, c.length, 8)]


def _series(c: Context) -> Candidates:
    length = int(c.sizes.find("context_length", "prediction_length") or 512)
    lags = c.sizes.find("lags_sequence") or [0]
    channels = int(c.sizes.find("num_input_channels", "input_size") or 1)
    past = length + (max(lags) if isinstance(lags, list | tuple) else 0)
    return [floats(c.batch, past, channels), floats(c.batch, past)]


def _time_features(c: Context) -> Candidates:
    count = int(c.sizes.find("num_time_features") or 0)
    return [floats(c.batch, series.shape[1], count) for series in _series(c)[:1]]


def _decoder_tokens(c: Context) -> Candidates:
    books = int(c.sizes.find("num_codebooks", "num_channels", part="decoder") or 1)
    shapes = ((c.batch, 1), (c.batch, 1, books), (c.batch * books, 1))
    return [*(known(torch.full(shape, TOKEN)) for shape in shapes), floats(c.batch, 2, int(c.sizes.find("num_mel_bins") or 80))]


_GRIDS = frozenset(("image_grid_thw", "video_grid_thw", "grid_thw", "spatial_shapes", "image_grid_hw", "image_position_ids"))

_MAKERS: dict[str, Callable[[Context], Candidates]] = {
    "input_ids": _tokens, "decoder_input_ids": _decoder_tokens, "attention_mask": _ones, "token_type_ids": _zeros,
    "pixel_values": _images, "pixel_values_videos": _videos, "image_grid_thw": _grid, "video_grid_thw": _grid, "grid_thw": _grid,
    "spatial_shapes": _grid_2d, "image_grid_hw": _grid_2d, "image_sizes": _image_sizes, "pixel_attention_mask": _patch_mask,
    "input_features": _spectrograms, "input_values": _recordings, "bbox": _boxes, "past_values": _series, "past_observed_mask": _series,
    "input_features_mask": _frame_mask, "flattened_patches": _flattened, "high_res_pixel_values": _high_resolution, "state": _robot_state,
    "target_sizes": _grid_2d, "padding_mask": _sample_mask,
    "past_time_features": _time_features, "qformer_input_ids": _tokens, "text_input_ids": _tokens,
}
_WHEN_REQUIRED = ("attention_mask", "token_type_ids", "video_grid_thw", "pixel_values_videos", "padding_mask")
OPTIONAL = tuple(name for name in _MAKERS if name not in _WHEN_REQUIRED)
"""Arguments that are filled where a model does not run without."""
