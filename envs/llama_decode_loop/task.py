"""A few decoder layers that decode greedily: the end-to-end loop of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...agreement import tokens_agree
from ...layers import DECODER_OPS, DECODER_WEIGHTS, decoded, rms_normed, rotary_table
from ...rearrange import Rearrangement, Rows
from ...task import LAYER, Baseline, Cost, Input, Metadata, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...agreement import Agreement
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

_SLACK = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.06}
"""Difference of two logits, as a share of their spread, that the rounding of activations explains: four times the error that the hidden
state of a right program has (1e-2 of its norm in bfloat16), in both of them.
"""


class LlamaDecodeLoop(Task):
    """Greedy decoding of B sequences for S steps through L decoder layers and the language-model head."""

    entry = "llama_decode_loop"
    summary = "Decode S tokens greedily for B sequences of different lengths: embedding, L decoder layers over a cache, head, argmax."
    semantics = (
        "At step s sequence b is fed the token prompt[b, s] if s < given[b], else its own token of step s - 1. Its position is "
        "lengths[b] + s; entries 0 to lengths[b] - 1 of its cache are k_context[l, b], v_context[l, b]. x = embedding[token]. In layer l: "
        "n = rms_norm(x, norms[l, 0]); query, key, value = n . qkv[l] (q heads, then kv, then kv, of d each); rope on query and key by "
        "cos_sin[position]; key and value join the cache; x += attention(query, cache, scale 1 / sqrt(d)) . o[l]; "
        "n = rms_norm(x, norms[l, 1]); x += silu_and_mul(n . gate_up[l]) . down[l]. Behind the last layer n = rms_norm(x, final_norm); "
        "tokens[b, s] is the argmax of n . lm_head. hidden[b] is n at the last given step, given[b] - 1. Activations are held in the "
        "dtype of the weights between the operations."
    )
    mirrors = "one step of a serving engine's model runner (vLLM GPUModelRunner.execute_model on LlamaForCausalLM), S times"
    level = "L4"
    category = "llm"
    architectures = ("llama", "mistral", "smollm2", "tinyllama")
    ops = DECODER_OPS
    numerics = LAYER
    signature = (
        Output("tokens", "B", "S", dtype="int32"),
        Output("hidden", "B", "H"),
        Input("prompt", "B", "S", dtype="int32"),
        Input("given", "B", dtype="int32", doc="1 to S"),
        Input("k_context", "L", "B", "C", "kv", "d"),
        Input("v_context", "L", "B", "C", "kv", "d"),
        Metadata("lengths", "B", doc="1 to C"),
        Weight("embedding", "V", "H"),
        Weight("norms", "L", 2, "H"),
        Weight("qkv", "L", "(q+2*kv)*d", "H"),
        Weight("o", "L", "H", "q*d"),
        Weight("gate_up", "L", "2*I", "H"),
        Weight("down", "L", "H", "I"),
        Weight("final_norm", "H"),
        Weight("lm_head", "V", "H"),
        Weight("cos_sin", "C+S", "d", dtype="float32", doc="cosines, then sines"),
        Scalar("epsilon", "float"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    measures: ClassVar[Mapping[str, str]] = {
        "tokens": "the share that differs from the reference's, as long as the tokens before were the same, may be twice that of the best "
        "baseline on the same inputs, or 0.001 if that is more; a token whose logit is as good as the best but for rounding is no mistake"
    }
    batch = "B"
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {
        "cpu": {"B": (1, 6), "C": (1, 70), "S": (2, 5)}, "cuda": {"B": (1, 40), "C": (1, 900), "S": (2, 9)}
    }
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"q": 9, "kv": 3, "d": 32, "I": 776}, {"q": 6, "kv": 2, "d": 48, "I": 760}),
        "cuda": ({"q": 24, "kv": 8, "d": 128, "H": 3072, "I": 8192}, {"q": 9, "kv": 3, "d": 64, "H": 576, "I": 1536}),
    }

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        size, dtype = workload.sizes, getattr(torch, workload.dtype)
        layers, batch, context, steps, width, vocabulary = (size[name] for name in ("L", "B", "C", "S", "H", "V"))
        heads, groups, head, inner = (size[name] for name in ("q", "kv", "d", "I"))
        tokens = torch.randint(vocabulary, (batch, steps), generator=draw.host, dtype=torch.int32)
        given = torch.randint(1, steps + 1, (batch,), generator=draw.host, dtype=torch.int32)
        lengths = draw.lengths(batch, max(context * 0.6, 1.0), 0.5, 1, context).int()
        cache = (layers, batch, context, groups, head)
        return {
            "prompt": tokens.to(draw.device), "given": given.to(draw.device), "lengths": lengths.to(draw.device),
            "k_context": draw.activation(cache, dtype), "v_context": draw.activation(cache, dtype),
            "embedding": draw.matrix((vocabulary, width), dtype, 1),
            "norms": draw.parameter((layers, 2, width), dtype),
            "qkv": draw.matrix((layers, (heads + 2 * groups) * head, width), dtype, width),
            "o": draw.matrix((layers, width, heads * head), dtype, heads * head),
            "gate_up": draw.matrix((layers, 2 * inner, width), dtype, width),
            "down": draw.matrix((layers, width, inner), dtype, inner),
            "final_norm": draw.parameter((width,), dtype),
            "lm_head": draw.weight(lambda: self._head(draw, vocabulary, width, dtype)),
            "cos_sin": draw.weight(lambda: rotary_table(context + steps, head, workload.params["base"], draw.device)),
            "epsilon": workload.params["eps"],
        }

    @staticmethod
    def _head(draw: Draw, vocabulary: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows of very different norms, as trained ones are: some tokens are likely, and the best is seldom close to the next."""
        scale = draw.normal((vocabulary, 1), torch.float32, 0.5).exp_()
        return (draw.normal((vocabulary, width), torch.float32, width**-0.5) * scale).to(dtype)

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Cache entries behind a sequence's length."""
        k_context, lengths = torch.as_tensor(args["k_context"]), torch.as_tensor(args["lengths"])
        free = (torch.arange(k_context.shape[2], device=k_context.device) >= lengths[:, None])[None, :, :, None, None]
        return {"k_context": free, "v_context": free}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Whole sets change places: a layer's sequences lie apart, so that single ones cannot be dealt out."""
        whole = Rows(entries.rows(1))
        names = ("prompt", "given", "k_context", "v_context", "lengths")
        return Rearrangement(dict.fromkeys(names, whole), {"tokens": whole, "hidden": whole})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        given = {name: torch.as_tensor(value) for name, value in args.items()}
        prompt, lengths = given["prompt"].long(), given["lengths"].long()
        room = (0, 0, 0, 0, 0, prompt.shape[1])
        keys, values = (torch.nn.functional.pad(given[name].double(), room) for name in ("k_context", "v_context"))
        table, head = given["embedding"], given["lm_head"].double().T
        token, epsilon, own = prompt[:, 0], float(given["epsilon"]), given["given"]
        tokens: list[torch.Tensor] = []
        scores: list[torch.Tensor] = []
        hidden = torch.zeros((len(prompt), table.shape[1]), dtype=torch.float64, device=table.device)
        for step in range(prompt.shape[1]):
            token = torch.where(own > step, prompt[:, step], token)
            x, positions = table[token].double(), lengths + step
            angles = given["cos_sin"][positions]
            for layer in range(len(keys)):
                held = {name: given[name][layer] for name in DECODER_WEIGHTS}
                x, added = decoded(x, held, epsilon, angles, keys[layer], values[layer], positions)
                x = x + added
            normed = rms_normed(x, given["final_norm"], epsilon)
            hidden = torch.where((own == step + 1)[:, None], normed, hidden)
            scores.append(normed @ head)
            token = scores[-1].argmax(-1)
            tokens.append(token)
        return {
            "tokens": torch.stack(tokens, 1).int(), "hidden": hidden, "scores": torch.stack(scores, 1), "given": own,
            "slack": torch.tensor(_SLACK[table.dtype], dtype=torch.float64),
        }

    def agreement(self, name: str, actual: torch.Tensor, expected: Mapping[str, torch.Tensor], baseline: float) -> Agreement:
        """Tokens by the share that is not the oracle's, as long as they were asked the same."""
        scores = expected["scores"]
        slack = float(expected["slack"] * scores.std()) if scores.numel() else 0.0
        return tokens_agree(actual, expected["tokens"], expected["given"], scores, slack, baseline)

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        size, item = workload.sizes, getattr(torch, workload.dtype).itemsize
        batch, steps = size["B"], size["S"]
        layer = size["H"] * (2 * size["q"] + 2 * size["kv"]) * size["d"] + 3 * size["H"] * size["I"]
        weights = size["L"] * layer + size["V"] * size["H"]
        context = int(torch.as_tensor(args["lengths"]).sum())
        cache = 2 * size["L"] * size["kv"] * size["d"] * context
        attention = 4 * size["L"] * size["q"] * size["d"] * (context * steps + batch * steps * (steps + 1) // 2)
        read = batch * (steps * size["H"] + size["H"]) + weights * steps * (batch > 0) + cache * steps
        return Cost(bytes=read * item + batch * steps * 4, flops=2 * weights * batch * steps + attention)


TASK = LlamaDecodeLoop()
