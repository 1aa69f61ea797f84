"""Window attention of Swin Transformer V2: cosine scores, a learned bias by relative position, the mask of shifted windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...attention import tensor
from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

MOST = math.log(100.0)
"""Where logit scales are clamped."""


class SwinWindowAttention(Task):
    """Every token attends to its window, by the cosine of query and key."""

    entry = "swin_window_attention"
    summary = "Attend within windows by scaled cosines plus a bias by relative position, and the mask of shifted windows."
    semantics = (
        "qkv and out hold the windows of B images, g^2 of each one after another, with N = w * w tokens in rows of w (window_size). A "
        "token's row of qkv holds its query, then its key, then its value, each H heads of d channels; out holds H heads of d. For window "
        "n, head h and tokens i, j: score[i, j] = s[h] * dot(q[i], k[j]) / (max(|q[i]|, 1e-12) * max(|k[j]|, 1e-12)) + "
        "16 / (1 + exp(-bias_table[r, h])) + mask[n % g^2, i, j], with s[h] = exp(min(logit_scale[h], ln 100)), |x| the Euclidean norm, "
        "and r = (i // w - j // w + w - 1) * (2w - 1) + i % w - j % w + w - 1. If shifted is false, mask has no meaning and is not added. "
        "mask is -100 between tokens of different regions, but is to be added whatever it holds. out[n, i] = sum over j of "
        "softmax(score[i])[j] * v[j], head by head. Everything in float32 or better, without TF32, but that the softmax's numerators may "
        "be rounded to qkv's dtype before the last product. Round once. B may be zero. All tensors are contiguous."
    )
    mirrors = "Swin-Transformer WindowAttention.forward (V2), timm swin_transformer_v2, between qkv and output projection"
    level = "L2"
    category = "multimodal"
    architectures = ("swinv2",)
    signature = (
        Output("out", "B*g*g", "w*w", "H*d"),
        Input("qkv", "B*g*g", "w*w", "3*H*d"),
        Weight("logit_scale", "H", dtype="float32", doc="Logarithms, to be clamped."),
        Weight("bias_table", "(2*w-1)*(2*w-1)", "H", dtype="float32", doc="What the position bias's MLP gives."),
        Weight("mask", "g*g", "w*w", "w*w", dtype="float32", doc="Of every window of a shifted image."),
        Scalar("window_size", "int"),
        Scalar("shifted", "bool", doc="Whether the mask is added."),
    )
    # Scores go up to 116, and the softmax turns their rounding into as large a relative error: rows of right kernels err by 1.3e-5.
    numerics = msgspec.structs.replace(N1, name="N1, float32 RMS 3e-5", rms_floor={**N1.rms_floor, "float32": 3e-5})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flex", file="flex.py", devices=("cuda",), compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3), "g": (1, 2)}, "cuda": {"B": (1, 40), "g": (1, 5)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"w": 7, "H": 3}, {"w": 9, "H": 5}, {"w": 15, "H": 3}, {"w": 5, "H": 4, "d": 48}),
        "cuda": ({"w": 7, "H": 3}, {"w": 9, "H": 5}, {"w": 15, "H": 4}, {"w": 23, "H": 6}, {"w": 5, "H": 4, "d": 48}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``shifted``, 0 or 1."""
        images, grid, side, heads, width = (workload.sizes[name] for name in ("B", "g", "w", "H", "d"))
        shape = (images * grid * grid, side * side, 3 * heads, width)
        return {
            "qkv": draw.vary_rows(draw.activation(shape, getattr(torch, workload.dtype)), 8.0, 1e-2).flatten(2),
            "logit_scale": draw.weight(lambda: _logit_scale(draw, heads)),
            "bias_table": draw.weight(lambda: draw.normal(((2 * side - 1) ** 2, heads), torch.float32)),
            "mask": draw.weight(lambda: _mask(draw, grid, side)),
            "window_size": side,
            "shifted": bool(workload.params["shifted"]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Images dealt out anew, where they are not shifted single windows; the values of each with a sign and a power of two."""
        sizes = workload.sizes
        places = sizes["g"] ** 2 if workload.params["shifted"] else 1
        windows, values = sizes["B"] * sizes["g"] ** 2, 2 * sizes["H"] * sizes["d"]
        units = entries.rows(windows // places)
        source = (units[:, :, None] * places + torch.arange(places, device=units.device)).flatten(1)
        factor = entries.signs(windows) * entries.powers(windows)
        return Rearrangement({"qkv": Rows(source, factor, values)}, {"out": Rows(source, factor)})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        qkv, logits, table = (tensor(args, name).double() for name in ("qkv", "logit_scale", "bias_table"))
        windows, tokens, _ = qkv.shape
        q, k, v = qkv.view(windows, tokens, 3, len(logits), qkv.shape[2] // (3 * len(logits))).permute(2, 0, 3, 1, 4)
        bias = 16 * table.sigmoid()[_relative(int(args["window_size"]), qkv.device)].permute(2, 0, 1)
        if args["shifted"]:
            mask = tensor(args, "mask").double()[:, None]
            bias = (bias + mask).repeat(windows // len(mask), 1, 1, 1)
        q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        scores = (q @ k.transpose(-1, -2)).mul_(logits.clamp_max(MOST).exp()[:, None, None]).add_(bias)
        return {"out": (scores.softmax(-1) @ v).transpose(1, 2).flatten(2).contiguous()}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        windows, tokens, _ = tensor(args, "qkv").shape
        heads = len(tensor(args, "logit_scale"))
        window = torch.arange(windows).repeat_interleave(tokens * heads)
        return {"out": {"head": torch.arange(heads).repeat(windows * tokens), "window": window}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """The mask of images that are not shifted."""
        return {} if args["shifted"] else {"mask": torch.ones_like(tensor(args, "mask"), dtype=torch.bool)}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        images, grid, side, heads, width = (workload.sizes[name] for name in ("B", "g", "w", "H", "d"))
        tokens, windows = side * side, images * grid * grid
        floats = heads + (2 * side - 1) ** 2 * heads + (grid * grid * tokens**2 if workload.params["shifted"] else 0)
        moved = 4 * windows * tokens * heads * width * getattr(torch, workload.dtype).itemsize
        return Cost(bytes=moved + 4 * floats, flops=4 * windows * heads * tokens**2 * width)


def _logit_scale(draw: Draw, heads: int) -> torch.Tensor:
    """Scales from 7 to 180 in any order: one head at least is past the clamp."""
    return torch.linspace(2.0, 5.2, heads + 1)[1:][draw.permutation(heads)].to(draw.device)


def _mask(draw: Draw, grid: int, side: int) -> torch.Tensor:
    """Of windows that are shifted by half of their side: what the shift brings together from opposite edges does not meet.

    But in the `NORMAL` regime a little noise lies on it: a kernel that takes it for a pattern of 0 and -100 fails.
    """
    place = torch.arange(grid * side)
    line = (place >= (grid - 1) * side).int() + (place >= grid * side - side // 2).int()
    region = (3 * line[:, None] + line).view(grid, side, grid, side).transpose(1, 2).reshape(grid * grid, side * side)
    mask = torch.zeros(grid * grid, side**2, side**2).masked_fill_(region[:, None] != region[:, :, None], -100.0).to(draw.device)
    return mask if draw.regime is Regime.NORMAL else mask.add_(draw.normal(mask.shape, torch.float32, 0.5))


def _relative(side: int, device: torch.device) -> torch.Tensor:
    """Row of the table for every pair of tokens (int64 ``[N, N]``)."""
    token = torch.arange(side * side, device=device)
    rows, columns = (x[:, None] - x + side - 1 for x in (token // side, token % side))
    return rows * (2 * side - 1) + columns


TASK = SwinWindowAttention()
