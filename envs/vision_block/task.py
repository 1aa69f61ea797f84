"""A block of a vision encoder over packed images: what vision-language models put in front of their decoders."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ... import encoder
from ...attention import deal_rows, deal_sequences
from ...layers import VISION_OPS, rotated
from ...rearrange import Rearrangement, Rows
from ...task import LAYER, Baseline, Cost, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

_MERGED = 2
"""Patches lie in squares of so many rows and columns: those that a model merges into one token behind its encoder."""


class VisionBlock(Task):
    """Norm, attention inside of every image with rotated queries and keys, norm and MLP, each added to its input."""

    entry = "vision_block"
    summary = "Apply one pre-norm vision block to images whose patches lie one after another: norm, attention with 2-D rope, norm, MLP."
    semantics = (
        "Image s has the patches from cu_seqlens[s] to cu_seqlens[s + 1] - 1, between 1 and max_seqlen, which may be more than the "
        "largest has; cu_seqlens starts with 0 and ends with T. With x = hidden and n = layer_norm(x) with norm_weight[0] and "
        "norm_bias[0]: query, key, value = n . qkv_weight + qkv_bias (h heads of d each; qkv_bias[0] is that of the queries); in every "
        "head of query and key the pair (a, b) of the channels i and d/2 + i becomes (a * cos[t, i] - b * sin[t, i], b * cos[t, i] + a * "
        "sin[t, i]); y = x + attention . o_weight + o_bias, attention inside of every image without a mask, scores times 1 / sqrt(d); n = "
        "layer_norm(y) with norm_weight[1] and norm_bias[1]; out = y + gelu_tanh(n . up_weight + up_bias) . down_weight + down_bias. x . "
        "w stands for the sum over k of x[t, k] * w[n, k]. Between the operations activations are held in the dtype of the weights. S may "
        "be zero. All tensors are contiguous."
    )
    mirrors = "vLLM Qwen3_VisionBlock.forward(x, cu_seqlens, rotary_pos_emb_cos, rotary_pos_emb_sin, max_seqlen)"
    level = "L3"
    category = "multimodal"
    architectures = ("qwen3_vl", "qwen3_vl_moe", "paddleocr_vl", "dinov3")
    ops = VISION_OPS
    numerics = LAYER
    signature = (
        Output("out", "T", "H"),
        Input("hidden", "T", "H"),
        Metadata("cu_seqlens", "S+1", doc="start of each image"),
        Input("cos", "T", "d//2", dtype="float32", doc="of the angles of a patch's row, then of its column"),
        Input("sin", "T", "d//2", dtype="float32"),
        *encoder.layer_weights(),
        Scalar("max_seqlen", "int", doc="no image is larger"),
        Scalar("epsilon", "float", doc="of both norms"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"S": (1, 6), "mean": (1, 40)}, "cuda": {"S": (1, 24), "mean": (1, 900)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 6, "d": 40, "I": 776}, {"h": 4, "d": 88, "I": 1000}),
        "cuda": ({"h": 12, "d": 64, "I": 3072}, {"h": 16, "d": 80, "I": 5120}, {"h": 9, "d": 40, "I": 1400}),
    }
    batch = "S"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return encoder.completed(sizes)

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: those of `encoder.draw_starts`; ``base`` of the rope; ``eps``, the model's own."""
        sizes, dtype = workload.sizes, getattr(torch, workload.dtype)
        starts = encoder.draw_starts(workload, draw)
        angles = _angles(starts.cpu(), sizes["d"], workload.params["base"], draw).to(draw.device)
        return {
            "hidden": draw.activation((sizes["T"], sizes["H"]), dtype), "cu_seqlens": starts, "cos": angles.cos().float(),
            "sin": angles.sin().float(), "max_seqlen": encoder.most_tokens(workload), "epsilon": encoder.draw_epsilon(workload, draw),
            **encoder.draw_layers(draw, sizes, dtype, 5.0),
        }  # fmt: skip

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Images of equal size exchanged between sets and given other places."""
        tokens, starts = workload.sizes["T"], entries.stacks["cu_seqlens"].long()
        rows = deal_rows(deal_sequences(entries, starts.diff(dim=1)), starts, tokens)
        dealt = Rows(rows.from_set * tokens + rows.from_row)
        return Rearrangement({"hidden": dealt, "cos": dealt, "sin": dealt, "cu_seqlens": rows.indptr.int()}, {"out": dealt})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value) for name, value in args.items()}
        epsilon, norms = float(args["epsilon"]), list(zip(given["norm_weight"], given["norm_bias"], strict=True))
        x, shape, angles = given["hidden"].double(), given["qkv_bias"].shape, torch.cat([given["cos"], given["sin"]], -1)
        qkv = encoder.linear(encoder.normed(x, *norms[0], epsilon), given["qkv_weight"], given["qkv_bias"].flatten()).view(-1, *shape)
        query, key, value = qkv.unbind(1)
        qkv = torch.stack([rotated(query, angles), rotated(key, angles), value], 1)
        x = x + encoder.linear(encoder.mixed(qkv, given["cu_seqlens"]), given["o_weight"], given["o_bias"])
        inner = encoder.linear(encoder.normed(x, *norms[1], epsilon), given["up_weight"], given["up_bias"])
        inner = torch.nn.functional.gelu(inner, approximate="tanh")
        return {"out": x + encoder.linear(inner, given["down_weight"], given["down_bias"])}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        return encoder.boundary_moved(args)

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        tokens, width = sizes["T"], sizes["H"]
        moved = 2 * tokens * width + encoder.layer_elements(sizes) * (tokens > 0)
        flops = 2 * tokens * encoder.matrix_elements(sizes) + 4 * width * encoder.pairs(args)
        return Cost(bytes=moved * item + 4 * tokens * sizes["d"] + 4 * (sizes["S"] + 1), flops=flops)


def _angles(starts: torch.Tensor, width: int, base: float, draw: Draw) -> torch.Tensor:
    """Angles of every patch (float64 ``[T, d // 2]``, on the host): those of its row, then those of its column.

    Images are about as high as wide or twice as wide, each as it comes; the last squares of an image may be missing.
    """
    lengths = starts.diff().long()
    wide = torch.rand(len(lengths), generator=draw.host, dtype=torch.float64) + 0.7
    across = (lengths.double().sqrt() * wide / _MERGED).ceil().long().clamp_min(1).repeat_interleave(lengths)
    place = torch.arange(int(starts[-1])) - starts[:-1].long().repeat_interleave(lengths)
    square, within = place // _MERGED**2, place % _MERGED**2
    row, column = square // across * _MERGED + within // _MERGED, square % across * _MERGED + within % _MERGED
    inverse = base ** -(torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
    return torch.cat([torch.outer(at.double(), inverse) for at in (row, column)], -1)


TASK = VisionBlock()
