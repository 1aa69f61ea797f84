"""Joint attention of diffusion transformers: text and image tokens, each normalised with weights of its own, attend to all of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import attend, tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class JointAttention(Task):
    """RMS norm of every head of queries and keys, rotation, attention over both streams at once."""

    entry = "joint_attention"
    summary = "Normalise and rotate the query and key heads of an image and a text stream and attend with both to both."
    semantics = (
        "For every sample the L text tokens (encoder_query, encoder_key, encoder_value) come first, then the S image tokens (query, key, "
        "value): token t of both together, t in [0, L + S), is text token t or image token t - L. Every head x of d channels of a query "
        "or key is normalised, y = x / sqrt(mean(x^2) + eps) * w, with w = norm_q of an image query, norm_k of an image key, norm_added_q"
        " of a text query, norm_added_k of a text key; then each pair of channels 2 * i, 2 * i + 1 is rotated, i in [0, d / 2): z[2 * i] "
        "= y[2 * i] * cos[t, i] - y[2 * i + 1] * sin[t, i] and z[2 * i + 1] = y[2 * i + 1] * cos[t, i] + y[2 * i] * sin[t, i]. With these"
        " queries and keys and the values as they are, every token attends to all tokens of its sample, head by head: the softmax over j "
        "of dot(zq[t], zk[j]) / sqrt(d) weights the values of the tokens j. Rows of image tokens go to out, those of text tokens to "
        "encoder_out. Compute norm, rotation and sums in float32 or better; rotated queries and keys, and weights, may be rounded to the "
        "dtype before they are multiplied, and results are rounded once. All tensors are contiguous."
    )
    mirrors = "diffusers FluxAttnProcessor (double-stream block) between its projections"
    level = "L2"
    category = "vision"
    architectures = ("flux", "hunyuan_video", "qwen_image", "chroma")
    signature = (
        Output("out", "B", "S", "h", "d"),
        Output("encoder_out", "B", "L", "h", "d"),
        Input("query", "B", "S", "h", "d"),
        Input("key", "B", "S", "h", "d"),
        Input("value", "B", "S", "h", "d"),
        Input("encoder_query", "B", "L", "h", "d"),
        Input("encoder_key", "B", "L", "h", "d"),
        Input("encoder_value", "B", "L", "h", "d"),
        Weight("norm_q", "d"),
        Weight("norm_k", "d"),
        Weight("norm_added_q", "d"),
        Weight("norm_added_k", "d"),
        Weight("cos", "L+S", "d//2", dtype="float32", doc="Constant over the layers and steps of an image."),
        Weight("sin", "L+S", "d//2", dtype="float32"),
        Scalar("eps", "float"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="compile_cudnn", file="cudnn.py", devices=("cuda",), compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"B": (1, 3), "S": (1, 70), "L": (1, 30)}, "cuda": {"B": (1, 6), "S": (1, 1500), "L": (1, 600)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 16, "d": 72}, {"h": 12, "d": 64}, {"h": 5, "d": 96}),
        "cuda": ({"h": 16, "d": 72}, {"h": 24, "d": 64}, {"h": 21, "d": 96}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, image, text, heads, width = (workload.sizes[name] for name in ("B", "S", "L", "h", "d"))
        dtype = getattr(torch, workload.dtype)
        values: dict[str, Value] = {}
        for prefix, tokens in (("", image), ("encoder_", text)):
            for name, large in (("query", 30.0), ("key", 30.0), ("value", 4.0)):
                drawn = draw.activation((batch, tokens, heads, width), dtype)
                values[prefix + name] = draw.vary_rows(drawn, large, 2e-3)  # so small that eps counts
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            # Mostly above one, as trained ones are: scores are spread and single tokens count.
            values[name] = draw.weight(lambda: draw.normal((width,), torch.float32, 0.25).add_(1.2).to(dtype))
        angle = _angles(draw, text, image, width)
        return {**values, "cos": draw.weight(angle.cos().float), "sin": draw.weight(angle.sin().float), "eps": 1e-6}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """The heads of all samples dealt out anew, over samples, sets and places.

        A sign common to a head's queries and keys cancels; a sign and a power of two of its values goes through to the output.
        """
        batch, heads = workload.sizes["B"], workload.sizes["h"]
        unit = entries.rows(batch * heads)
        score, value = entries.signs(batch * heads), entries.signs(batch * heads) * entries.powers(batch * heads)

        def stream(prefix: str, tokens: int) -> tuple[dict[str, Rows | torch.Tensor], Rows]:
            first = (unit // heads * tokens * heads + unit % heads).view(-1, batch, 1, heads)
            source = (first + torch.arange(tokens, device=unit.device)[:, None] * heads).flatten(1)
            scores, values = (Rows(source, f.view(-1, batch, 1, heads).expand(-1, -1, tokens, -1).flatten(1)) for f in (score, value))
            return {f"{prefix}query": scores, f"{prefix}key": scores, f"{prefix}value": values}, values

        (image, out), (text, encoder_out) = stream("", workload.sizes["S"]), stream("encoder_", workload.sizes["L"])
        return Rearrangement({**image, **text}, {"out": out, "encoder_out": encoder_out})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        text, scale = tensor(args, "encoder_query").shape[1], tensor(args, "query").shape[3] ** -0.5
        q, k = (_rotated(args, name, weight) for name, weight in (("query", "q"), ("key", "k")))
        v = torch.cat((tensor(args, "encoder_value"), tensor(args, "value")), 1)
        out = torch.zeros(v.shape, dtype=torch.float64, device=v.device)
        for sample in range(len(v)):
            out[sample] = attend(q[sample], k[sample], v[sample], scale)[0]
        return {"out": out[:, text:], "encoder_out": out[:, :text]}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        found = {}
        for output, name in (("out", "query"), ("encoder_out", "encoder_query")):
            batch, tokens, heads, _ = tensor(args, name).shape
            found[output] = {"head": torch.arange(heads).repeat(batch * tokens)}
        return found

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, image, text, heads, width = (workload.sizes[name] for name in ("B", "S", "L", "h", "d"))
        tokens, item = image + text, getattr(torch, workload.dtype).itemsize
        moved = (4 * batch * tokens * heads * width + 4 * width) * item + 4 * tokens * width
        return Cost(bytes=moved, flops=4 * batch * heads * width * tokens * tokens)


def _rotated(args: Mapping[str, Value], name: str, weight: str) -> torch.Tensor:
    """Queries or keys of both streams, normalised and rotated, in float64 ``[B, L + S, h, d]``."""
    streams = ((f"encoder_{name}", f"norm_added_{weight}"), (name, f"norm_{weight}"))
    normed = []
    for stream, norm in streams:
        x = tensor(args, stream).double()
        normed.append(x * (x.square().mean(-1, keepdim=True) + args["eps"]).rsqrt() * tensor(args, norm).double())
    joined = torch.cat(normed, 1)
    first, second = joined[..., ::2], joined[..., 1::2]
    cos, sin = (tensor(args, table).double()[:, None] for table in ("cos", "sin"))
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)


def _angles(draw: Draw, text: int, image: int, width: int) -> torch.Tensor:
    """Angles ``[L + S, d / 2]``: an eighth of the pairs turns with the frame, the others with row and column; text lies on the diagonal.

    The base varies around the models' 10,000, and no token has only angles of zero: tables that are ignored are noticed.
    """
    half, side = width // 2, math.isqrt(max(image - 1, 0)) + 1
    base = 1e4 * math.exp2(2 * float(torch.rand((), generator=draw.host)) - 1)
    sections = (half // 8, (half - half // 8) // 2)
    place, diagonal = torch.arange(image), side + torch.arange(text)
    positions = (
        torch.cat((torch.zeros(text), torch.ones(image))), torch.cat((diagonal, place // side + 1)), torch.cat((diagonal, place % side + 1))
    )
    parts = []
    for position, pairs in zip(positions, (*sections, half - sum(sections)), strict=True):
        rate = base ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        parts.append(position.double()[:, None] * rate)
    return torch.cat(parts, 1).to(draw.device)


TASK = JointAttention()
