"""A layer of a text encoder over packed documents: what embedding and reranking models are made of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ... import encoder
from ...attention import deal_rows, deal_sequences
from ...layers import ENCODER_OPS
from ...rearrange import Rearrangement, Rows
from ...task import LAYER, Baseline, Cost, Input, Metadata, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class EncoderLayer(Task):
    """Attention inside of every document and an MLP, a layer norm behind each of the two sums."""

    entry = "encoder_layer"
    summary = "Apply one post-norm encoder layer to documents that lie one after another: attention, add and norm, MLP, add and norm."
    semantics = (
        "Document s has the tokens from cu_seqlens[s] to cu_seqlens[s + 1] - 1, between 1 and max_seqlen, which may be more than the "
        "longest has; cu_seqlens starts with 0 and ends with T. With x = hidden: query, key, value = x . qkv_weight + qkv_bias (h heads "
        "of d each; qkv_bias[0] is that of the queries); a = attention inside of every document, without a mask, scores times 1 / "
        "sqrt(d); y = layer_norm(x + a . o_weight + o_bias) with norm_weight[0] and norm_bias[0]; u = gelu(y . up_weight + up_bias), "
        "exact (erf); out = layer_norm(y + u . down_weight + down_bias) with norm_weight[1] and norm_bias[1]. x . w stands for the sum "
        "over k of x[t, k] * w[n, k]. Between the operations activations are held in the dtype of the weights. S may be zero. All "
        "tensors are contiguous."
    )
    mirrors = "transformers BertLayer / XLMRobertaLayer.forward, vLLM BertLayer.forward, over packed tokens"
    level = "L3"
    category = "recsys"
    architectures = ("bge_m3", "colbert_v2", "xlm_roberta", "bert")
    ops = ENCODER_OPS
    numerics = LAYER
    signature = (
        Output("out", "T", "H"),
        Input("hidden", "T", "H"),
        Metadata("cu_seqlens", "S+1", doc="start of each document"),
        *encoder.layer_weights(),
        Scalar("max_seqlen", "int", doc="no document is longer"),
        Scalar("epsilon", "float", doc="of both norms"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    regimes = (Regime.REALISTIC, Regime.SKEWED, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"S": (1, 14), "mean": (1, 33)}, "cuda": {"S": (1, 48), "mean": (1, 600)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"h": 4, "d": 64, "I": 1000}, {"h": 7, "d": 40, "I": 776}),
        "cuda": ({"h": 12, "d": 64, "I": 3072}, {"h": 12, "d": 32, "I": 1536}, {"h": 9, "d": 40, "I": 1400}),
    }
    batch = "S"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return encoder.completed(sizes)

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: those of `encoder.draw_starts`, and ``eps``, the model's own."""
        sizes, dtype = workload.sizes, getattr(torch, workload.dtype)
        starts = encoder.draw_starts(workload, draw)
        return {
            "hidden": draw.activation((sizes["T"], sizes["H"]), dtype), "cu_seqlens": starts, "max_seqlen": encoder.most_tokens(workload),
            "epsilon": encoder.draw_epsilon(workload, draw), **encoder.draw_layers(draw, sizes, dtype, 4.0),
        }  # fmt: skip

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Documents of equal length exchanged between sets and given other places."""
        tokens, starts = workload.sizes["T"], entries.stacks["cu_seqlens"].long()
        rows = deal_rows(deal_sequences(entries, starts.diff(dim=1)), starts, tokens)
        dealt = Rows(rows.from_set * tokens + rows.from_row)
        return Rearrangement({"hidden": dealt, "cu_seqlens": rows.indptr.int()}, {"out": dealt})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value) for name, value in args.items()}
        return {"out": encoder.encoded(given["hidden"].double(), given["cu_seqlens"], given, float(args["epsilon"]))}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        return encoder.boundary_moved(args)

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        sizes, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        tokens, width = sizes["T"], sizes["H"]
        moved = 2 * tokens * width + encoder.layer_elements(sizes) * (tokens > 0)
        flops = 2 * tokens * encoder.matrix_elements(sizes) + 4 * width * encoder.pairs(args)
        return Cost(bytes=moved * item + 4 * (sizes["S"] + 1), flops=flops)


TASK = EncoderLayer()
