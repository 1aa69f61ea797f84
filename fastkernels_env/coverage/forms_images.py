"""Inputs of types that read images or video, where they take them in a form of their own."""

from __future__ import annotations

from typing import Any

import torch

from .form_parts import Form, mask, prompt, sounds, whole
from .inputs import PATCHES, TOKEN, Context, floats
from .values import known


def _one_image(height: int, width: int) -> Form:
    """An image a request, in a list of one."""
    return lambda c: {"pixel_values": floats(c.batch, 1, c.channels, height, width)}


def _pair(height: int, width: int) -> Form:
    """Two images that are compared."""
    return lambda c: {"pixel_values": floats(c.batch, 2, 3, height, width)}


def _questions(c: Context) -> dict[str, Any]:
    """An image's query tokens, then a question, which the query transformer reads as well."""
    queries = int(c.sizes.find("num_query_tokens") or 32)
    token = int(c.sizes.find("image_token_index"))
    return {"pixel_values": floats(c.batch, 3, *c.image), "input_ids": prompt(c, token, queries)}


def _instructed(c: Context) -> dict[str, Any]:
    return {**_questions(c), "qformer_input_ids": whole(c.batch, c.length, value=TOKEN)}


def _instructed_video(c: Context) -> dict[str, Any]:
    frames, queries = 4, int(c.sizes.find("num_query_tokens") or 32)
    token = int(c.sizes.find("video_token_index"))
    return {"pixel_values": floats(c.batch, frames, 3, *c.image), "input_ids": prompt(c, token, frames * queries),
            "qformer_input_ids": whole(c.batch, c.length, value=TOKEN)}


def _classes(c: Context) -> dict[str, Any]:
    """Two names of things to find, and the sentence that asks for them."""
    words = 16
    return {
        "pixel_values": floats(c.batch, 3, 640, 640), "classes_input_ids": whole(2 * c.batch, words, value=TOKEN),
        "classes_attention_mask": mask(2 * c.batch, words), "tasks_input_ids": whole(c.batch, words, value=TOKEN),
        "tasks_attention_mask": mask(c.batch, words), "classes_structure": whole(c.batch, value=2),
    }


def _embedded_image(c: Context) -> dict[str, Any]:
    count = int(c.sizes.find("latent_query_num") or 64)
    places = torch.zeros(c.batch, c.length, dtype=torch.int64)
    places[:, 1:1 + count] = 1
    return {"pixel_values": floats(c.batch, 3, *c.image), "input_ids": whole(c.batch, c.length, value=TOKEN),
            "image_embeds_position_mask": known(places)}


def _placed_patches(c: Context) -> dict[str, Any]:
    """Patches of an image with the place of each, as many as become 256 tokens."""
    side = 16 * int(c.sizes.find("pooling_kernel_size", part="vision") or 3)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).expand(c.batch, side**2, 2)
    return {"pixel_values": floats(c.batch, side**2, 3 * c.patch**2), "image_position_ids": known(places)}


def _tiles(c: Context) -> dict[str, Any]:
    """An image of as many tokens as patches on other models."""
    side, tile = PATCHES // 2, 2 * c.patch
    return {"pixel_values": floats(c.batch * side**2, tile, tile, 3), "image_grid_thw": known(torch.tensor([[1, side, side]] * c.batch))}


def _placed_blocks(c: Context) -> dict[str, Any]:
    """The same for a model that reads blocks of patches, each of which becomes a token."""
    side, block = 16, 16 * 3
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).expand(c.batch, side**2, 2)
    return {"pixel_values": floats(c.batch, side**2, 3 * block**2), "image_position_ids": known(places)}


def _attended_image(c: Context) -> dict[str, Any]:
    """Text that looks at an image in layers of its own."""
    return {"input_ids": whole(c.batch, c.length, value=TOKEN), "pixel_values": floats(c.batch, 1, 3, *c.image),
            "image_attention_mask": mask(c.batch, c.length, 1)}


def _attended_again(c: Context) -> dict[str, Any]:
    """A token more, with what has been made of the image."""
    tokens, width = (c.image[0] // c.patch) ** 2 + 1, int(c.sizes.find("embed_dim", part="vision"))
    return {"input_ids": whole(c.batch, 1, value=TOKEN), "image_encoder_embeddings": floats(c.batch, tokens, width),
            "image_attention_mask": mask(c.batch, 1, 1)}


def _phrases(c: Context) -> dict[str, Any]:
    return {"pixel_values": floats(c.batch, 3, 800, 800), "input_ids": whole(c.batch, 16, value=2000)}


def _strip(c: Context) -> dict[str, Any]:
    """All patches of all images in one row."""
    return {"pixel_values": floats(1, 3, c.patch, c.batch * PATCHES**2 * c.patch),
            "target_sizes": known(torch.tensor([[PATCHES, PATCHES]] * c.batch))}


def _pooled_crops(c: Context) -> dict[str, Any]:
    """A small image of the whole and one crop, each of 27 by 27 patches that become 14 by 14 tokens."""
    tokens = 2 * 14 * 14
    return {"pixel_values": floats(2 * c.batch, 27 * 27, 3 * 14 * 14), "image_token_pooling": whole(c.batch * tokens, 4),
            "image_grids": whole(c.batch, 4, value=14)}


FORMS: dict[str, dict[str, Form]] = {
    "blip-2": {"batch": _questions},
    "deepseek_vl_hybrid": {"image": lambda c: {
        "pixel_values": floats(c.batch, 3, 384, 384), "high_res_pixel_values": floats(c.batch, 3, 1024, 1024),
    }},
    "efficientloftr": {"batch": _pair(480, 640)},
    "embedding_gemma2": {"image": _placed_patches, "audio": sounds},
    "gemma4": {"image": _placed_patches, "audio": sounds},
    "gemma4_unified": {"image": _placed_blocks, "audio": lambda c: {"input_features": floats(c.batch, 750, 640)}},
    "granite4_vision": {"image": lambda c: {
        "pixel_values": floats(c.batch, 5, 3, 384, 384), "image_sizes": known(torch.tensor([[768, 768]] * c.batch)),
    }},
    "granite_docling": {"image": lambda c: {**_one_image(512, 512)(c), "pixel_attention_mask": mask(c.batch, 1, dtype=torch.bool)}},
    "grounding-dino": {"batch": _phrases},
    "idefics": {"prefill": _attended_image, "decode": _attended_again},
    "idefics2": {"image": _one_image(980, 980)},
    "idefics3": {"image": _one_image(364, 364)},
    "inkling2": {"image": _tiles},
    "inkling2_loop": {"image": _tiles},
    "inkling_mm_model": {
        "image": lambda c: {"pixel_values": floats(c.batch * 256, 2, 40, 40, 3)},
        "audio": lambda c: {"audio_input_ids": whole(c.batch, 1500, 80, value=TOKEN)},
    },
    "instructblip": {"batch": _instructed},
    "instructblipvideo": {"batch": _instructed_video},
    "kosmos-2": {"batch": _embedded_image},
    "lightglue": {"batch": _pair(480, 640)},
    "lxmert": {"batch": lambda c: {
        "input_ids": whole(c.batch, 20, value=TOKEN), "visual_feats": floats(c.batch, 36, 2048), "visual_pos": floats(c.batch, 36, 4),
    }},
    "minicpmv4_6": {"image": _strip},
    "minicpmv4_7": {"image": _strip},
    "mm-grounding-dino": {"batch": _phrases},
    "modernvbert": {"image": _one_image(512, 512)},
    "molmo2": {"image": _pooled_crops},
    "omdet-turbo": {"batch": _classes},
    "oneformer": {"batch": lambda c: {"pixel_values": floats(c.batch, 3, 640, 640), "task_inputs": whole(c.batch, 77, value=TOKEN)}},
    "pe_video": {"batch": lambda c: {
        "input_ids": whole(c.batch, 77, value=TOKEN), "pixel_values_videos": floats(c.batch // 8, 16, 3, 336, 336),
    }},
    "perception_lm": {"image": _one_image(448, 448)},
    "rf_detr": {"batch": lambda c: {"pixel_values": floats(c.batch, 3, 560, 560)}},
    "seggpt": {"batch": lambda c: {name: floats(c.batch, 3, 448, 448) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")}},
    "smolvlm": {"image": _one_image(512, 512)},
    "superglue": {"batch": _pair(480, 640)},
    "superpoint": {"batch": lambda c: {"pixel_values": floats(c.batch, 3, 480, 640)}},
    "tvp": {"batch": lambda c: {  # its code takes one video at a time
        "input_ids": whole(1, 128, value=TOKEN), "pixel_values": floats(1, 48, 3, 448, 448), "attention_mask": mask(1, 128),
    }},
    "ultravbert": {"image": _one_image(512, 512)},
    "video_llama_3": {"image": lambda c: {
        "pixel_values": floats(c.batch * PATCHES**2, c.channels * c.patch**2),
        "image_grid_thw": known(torch.tensor([[1, PATCHES, PATCHES]] * c.batch)), "image_merge_sizes": whole(c.batch, value=2),
    }},
    "vilt": {"batch": lambda c: {
        "input_ids": whole(c.batch, 40, value=TOKEN), "pixel_values": floats(c.batch, 3, *c.image), "pixel_mask": mask(c.batch, *c.image),
    }},
    "vitmatte": {"batch": lambda c: {"pixel_values": floats(c.batch, 4, 512, 512)}},
}
