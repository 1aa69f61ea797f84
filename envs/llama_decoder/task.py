"""A decoder layer of the Llama family at a decode step: what a serving engine runs for every layer and token."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ... import encoder
from ...attention import deal_sequences, tensor
from ...layers import CACHED_DECODER_OPS, decoded, rotary_table
from ...rearrange import Rearrangement, Rows
from ...task import LAYER, Baseline, Cost, Input, Metadata, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class LlamaDecoder(Task):
    """Add and norm, attention of one new token over the sequence's cache, add and norm, gated MLP."""

    entry = "llama_decoder"
    summary = "Apply one Llama decoder layer to the new token of each of B sequences: add and norm, cached attention, add and norm, MLP."
    semantics = (
        "r = hidden + residual; n = rms_norm(r) * norms[0]; query, key, value = n . qkv (q heads, then kv, then kv, of d each). Rope on "
        "every head x of query and key, with c[i] = cos_sin[positions[b], i] and s[i] = cos_sin[positions[b], d/2 + i]: the pair (y, z) "
        "= (x[i], x[d/2 + i]) becomes (y * c[i] - z * s[i], z * c[i] + y * s[i]) for i in [0, d/2). key (behind the rope) and value are "
        "outputs, which the caller will put into the caches; these are read only. a = attention of each query head h over the first "
        "lengths[b] entries of k_cache[b], v_cache[b] (behind their rope), and over the new key and value, with key-value head h // (q "
        "/ kv), scores times 1 / sqrt(d). new_residual = r + a . o; m = rms_norm(new_residual) * norms[1]; new_hidden = silu_and_mul(m "
        ". gate_up) . down. rms_norm(x) = x / sqrt(mean over the channels of x^2 + epsilon); silu_and_mul(x) is x[i] / (1 + exp(-x[i])) "
        "* x[I + i] for i in [0, I); x . w stands for the sum over k of x[k] * w[n, k]. lengths[b] may be 0; entries of the caches "
        "behind it have no meaning. positions[b] is at least lengths[b], and more where a cache has dropped tokens. Between the "
        "operations activations are held in the dtype of the weights. B may be zero. All tensors are contiguous."
    )
    mirrors = "vllm.model_executor.models.llama.LlamaDecoderLayer.forward(positions, hidden_states, residual) at decode, flat caches"
    level = "L3"
    category = "llm"
    architectures = ("llama", "mistral", "smollm2", "tinyllama")
    ops = CACHED_DECODER_OPS
    numerics = LAYER
    signature = (
        Output("new_hidden", "B", "H"),
        Output("new_residual", "B", "H"),
        Output("key", "B", "kv*d"),
        Output("value", "B", "kv*d"),
        Metadata("positions", "B"),
        Input("hidden", "B", "H"),
        Input("residual", "B", "H"),
        Input("k_cache", "B", "M", "kv", "d"),
        Input("v_cache", "B", "M", "kv", "d"),
        Metadata("lengths", "B", doc="0 to M"),
        Weight("norms", 2, "H"),
        Weight("qkv", "(q+2*kv)*d", "H"),
        Weight("o", "H", "q*d"),
        Weight("gate_up", "2*I", "H"),
        Weight("down", "H", "I"),
        Weight("cos_sin", "N", "d", dtype="float32", doc="cosines, then sines"),
        Scalar("epsilon", "float", doc="of both norms"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 10), "M": (1, 150)}, "cuda": {"B": (1, 80), "M": (1, 1500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 232, "q": 6, "kv": 2, "d": 48, "I": 776}, {"H": 296, "q": 10, "kv": 2, "d": 40, "I": 680}),
        "cuda": ({"q": 24, "kv": 8, "d": 128, "H": 3072, "I": 8192}, {"q": 9, "kv": 3, "d": 64, "H": 576, "I": 1536}),
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Positions N of the rotary table, some more than a cache has room for."""
        return {**sizes, "N": sizes["M"] + 64}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``eps`` and ``base`` of the rope, the model's own."""
        size, dtype = workload.sizes, getattr(torch, workload.dtype)
        cache = batch, room, groups, head = tuple(size[name] for name in ("B", "M", "kv", "d"))
        width, heads, inner = (size[name] for name in ("H", "q", "I"))
        lengths = draw.lengths(batch, max(room * 0.6, 1.0), 0.5, 1, room + 1).int() - 1
        dropped = torch.randint(size["N"] - room, (batch,), generator=draw.host, dtype=torch.int32)

        def projections() -> torch.Tensor:
            """In float32 heads that look at few tokens, so that a softmax must subtract its maximum; in 16 bits at many, because
            roundings of large scores would be most of what can be seen.
            """
            values = draw.normal((heads + 2 * groups, head, width), torch.float32, width**-0.5)
            if dtype is torch.float32:
                values[:heads] *= (16.0 ** (1 - torch.arange(heads, device=draw.device) / heads))[:, None, None]
            else:
                values[:-groups] *= 0.4
            return values.view(-1, width).to(dtype)

        # For the same reason no outliers there: where one meets a large weight of a norm, scores of its row are of another kind.
        stream = draw.activation if dtype is torch.float32 else draw.normal
        return {
            "positions": (lengths + dropped).to(draw.device), "lengths": lengths.to(draw.device),
            "hidden": stream((batch, width), dtype, 0.5), "residual": stream((batch, width), dtype),
            "k_cache": draw.activation(cache, dtype), "v_cache": draw.normal(cache, dtype),
            "norms": draw.parameter((2, width), dtype), "qkv": draw.weight(projections),
            "o": draw.matrix((width, heads * head), dtype, 4 * heads * head), "gate_up": draw.matrix((2 * inner, width), dtype, width),
            "down": draw.matrix((width, inner), dtype, inner), "epsilon": encoder.draw_epsilon(workload, draw),
            "cos_sin": draw.weight(lambda: rotary_table(size["N"], head, workload.params["base"], draw.device)),
        }  # fmt: skip

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Entries of the caches behind their sequence's length, and angles of no token's position."""
        cache, angles = tensor(args, "k_cache"), tensor(args, "cos_sin")
        free = (torch.arange(cache.shape[1], device=cache.device) >= tensor(args, "lengths")[:, None])[:, :, None, None]
        strange = torch.ones_like(angles[:, :1], dtype=torch.bool).index_fill_(0, tensor(args, "positions").long(), False)
        return {"k_cache": free, "v_cache": free, "cos_sin": strange}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences of equal length exchanged between sets and given other places."""
        dealt = deal_sequences(entries, entries.stacks["lengths"].long())
        rows = Rows(dealt.sets * workload.sizes["B"] + dealt.sequences)
        names = ("positions", "lengths", "hidden", "residual", "k_cache", "v_cache")
        return Rearrangement(dict.fromkeys(names, rows), dict.fromkeys(("new_hidden", "new_residual", "key", "value"), rows))

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value) for name, value in args.items()}
        lengths, places = given["lengths"].long(), torch.arange(len(given["hidden"]), device=given["hidden"].device)
        keys, values = (torch.nn.functional.pad(given[name].double(), (0, 0, 0, 0, 0, 1)) for name in ("k_cache", "v_cache"))
        x, angles = given["hidden"].double() + given["residual"].double(), given["cos_sin"][given["positions"].long()]
        x, added = decoded(x, given, float(given["epsilon"]), angles, keys, values, lengths)
        key, value = (cache[places, lengths].flatten(1) for cache in (keys, values))
        return {"new_hidden": added, "new_residual": x, "key": key, "value": value}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        rolled = tensor(args, "positions").roll(1)
        return {} if torch.equal(rolled, tensor(args, "positions")) else {"the positions": {**args, "positions": rolled}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        size, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        batch, width, cached = size["B"], size["H"], int(tensor(args, "lengths").sum()) + size["B"]
        matrices = 2 * width * (size["q"] + size["kv"]) * size["d"] + 3 * width * size["I"]
        moved = 4 * batch * width + (matrices + 2 * width) * (batch > 0) + 2 * size["kv"] * size["d"] * cached
        flops = 2 * batch * matrices + 4 * size["q"] * size["d"] * cached
        return Cost(bytes=moved * item + 8 * batch, flops=flops)


TASK = LlamaDecoder()
