"""Attention with a bias that is added to the scores, one matrix a head for the whole batch, and padding behind every sequence."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...attention import tensor
from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class BiasAttention(Task):
    """Every token attends to the tokens of its sequence, by score plus bias."""

    entry = "bias_attention"
    summary = "Attend within every sequence of a padded batch, with a bias for every head and pair of places added to the scores."
    semantics = (
        "Sequence b has lengths[b] tokens, from 1 to S; what lies behind them is padding. For query s in [0, S), head h and keys t in "
        "[0, lengths[b]): x[t] = scale * dot(q[b, s, h], k[b, t, h]) + bias[h, s, t], and out[b, s, h] = sum over these t of "
        "softmax(x)[t] * v[b, t, h]. All S queries count, those of padding too: each is computed as written. Keys and values of padding "
        "hold finite numbers and must not be seen. The bias is the same for all sequences and may hold anything finite: it follows no "
        "pattern. Accumulate in float32 or better, without TF32; the softmax's numerators may be rounded to the dtype of v before they "
        "are multiplied. Round once. B may be zero. All tensors are contiguous."
    )
    mirrors = "transformers T5Attention.forward (position_bias plus mask) between its projections, with scale 1; BeitSelfAttention"
    level = "L2"
    category = "multimodal"
    architectures = ("flux", "sd3", "wan", "pixart", "cogvideox", "udop", "beit")
    signature = (
        Output("out", "B", "S", "H", "d"),
        Input("q", "B", "S", "H", "d"),
        Input("k", "B", "S", "H", "d"),
        Input("v", "B", "S", "H", "d"),
        Input("bias", "H", "S", "S", doc="By head, query and key; added after the scale."),
        Metadata("lengths", "B", doc="Tokens of each sequence."),
        Scalar("scale", "float", doc="Scale of the scores."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flex", file="flex.py", devices=("cuda",), compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 6), "S": (1, 100)}, "cuda": {"B": (1, 12), "S": (1, 600)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 6, "d": 48}, {"H": 4, "d": 24}, {"H": 5, "d": 88}),
        "cuda": ({"H": 16, "d": 48}, {"H": 4, "d": 24}, {"H": 6, "d": 88}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument.

        ``workload.params``: ``median`` and ``sigma`` of the log-normal lengths, which S cuts; ``scaled``: 1 where the model scales its
        scores, 0 where its queries come small, as T5's do.
        """
        batch, length, heads, width = (workload.sizes[name] for name in ("B", "S", "H", "d"))
        dtype, params = getattr(torch, workload.dtype), workload.params
        shape, usual = (batch, length, heads, width), draw.regime is Regime.NORMAL
        # Like any parameter the scale is not the obvious one, so that a kernel that knows it fails.
        factor = 1.0 if usual else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        small = 1.0 if params["scaled"] else width**-0.5
        lengths = torch.full((batch,), length) if usual else draw.lengths(batch, params["median"], params["sigma"], 1, length)
        return {
            "q": draw.vary_rows(draw.activation(shape, dtype, small), 4.0, 1e-2),
            "k": draw.vary_rows(draw.activation(shape, dtype), 2.0, 1e-2),
            "v": draw.vary_rows(draw.activation(shape, dtype), 4.0, 0.1),
            "bias": draw.distance_bias(heads, length, dtype),
            "lengths": lengths.int().to(draw.device),
            "scale": factor * (width**-0.5 if params["scaled"] else 1.0),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Heads with their biases dealt out anew over the sets, sequences given other places.

        Sets have the same lengths in other orders: a head of another set keeps its sequences, by the rank of their length. A sign common
        to a head's queries and keys cancels; a sign and a power of two of its values goes through to the output.
        """
        batch, length, heads = (workload.sizes[name] for name in ("B", "S", "H"))
        lengths = entries.stacks["lengths"].long()
        by_length = lengths.argsort(dim=1, stable=True)
        ranks = torch.where(entries.kept[:, None], by_length.argsort(1)[entries.order], entries.permutations(batch))
        head = entries.rows(heads)
        sets = (head // heads)[:, None]  # [slots, 1, heads], beside [slots, batch, 1]
        sequence = by_length[sets, ranks[:, :, None]]
        first = ((sets * batch + sequence) * length * heads + (head % heads)[:, None])[:, :, None]  # [slots, batch, 1, heads]
        source = (first + torch.arange(length, device=head.device)[:, None] * heads).flatten(1)

        def spread(factor: torch.Tensor) -> Rows:
            """With a factor for every sequence and head of a slot."""
            return Rows(source, factor.view(-1, batch, 1, heads).expand(-1, -1, length, -1).flatten(1))

        pairs = batch * heads
        score, value = spread(entries.signs(pairs)), spread(entries.signs(pairs) * entries.powers(pairs))
        own = lengths.gather(1, by_length)[entries.order].gather(1, ranks).int()
        return Rearrangement({"q": score, "k": score, "v": value, "bias": Rows(head), "lengths": own}, {"out": value})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        q, k, v = (tensor(args, name) for name in ("q", "k", "v"))
        bias, out = tensor(args, "bias"), torch.zeros(q.shape, dtype=torch.float64, device=q.device)
        for b, length in enumerate(tensor(args, "lengths").tolist()):
            query, keys, values = (x.double().transpose(0, 1) for x in (q[b], k[b, :length], v[b, :length]))
            scores = (query @ keys.transpose(1, 2)).mul_(float(args["scale"])).add_(bias[..., :length])
            out[b] = (scores.softmax(-1) @ values).transpose(0, 1)
        return {"out": out}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, length, heads, _ = tensor(args, "q").shape
        sequence = torch.arange(batch).repeat_interleave(length * heads)
        return {"out": {"head": torch.arange(heads).repeat(batch * length), "sequence": sequence}}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """The longest sequence loses half of its tokens."""
        lengths = tensor(args, "lengths").clone()
        if not len(lengths) or int(lengths.max()) < 2:
            return {}
        lengths[lengths.argmax()] //= 2
        return {"a length": {**args, "lengths": lengths}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, length, heads, width = (workload.sizes[name] for name in ("B", "S", "H", "d"))
        lengths = tensor(args, "lengths")
        tokens, longest = int(lengths.sum()), int(lengths.max()) if batch else 0
        elements = 2 * heads * width * (batch * length + tokens) + heads * length * longest
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize + 4 * batch, flops=4 * heads * width * length * tokens)


TASK = BiasAttention()
