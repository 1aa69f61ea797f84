"""One step of the gated delta rule: the linear attention of Qwen3-Next, at decode."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, InOut, Input, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

EPS = 1e-6


class GdnDecode(Task):
    """A state from keys to values for every head, which decays, and in which one key's value is corrected."""

    entry = "gated_delta_rule_decode"
    summary = "Decay every head's state, move what it holds for the new key towards the new value, in place, and read it with the query."
    semantics = (
        "Sequence b has one new token. Value head j uses query and key of head h = j // (HV / H): q' = q[b, 0, h], k' = k[b, 0, h], each "
        "divided by sqrt(its sum of squares + 1e-6) if use_qk_l2norm, else as it is. With r = exp(-exp(A_log[j]) * log(1 + exp(a[b, 0, j] "
        "+ dt_bias[j]))), w = 1 / (1 + exp(-b[b, 0, j])) and M = r * state[b, j], a matrix [K, V]: state[b, j] becomes S with S[i, e] = "
        "M[i, e] + k'[i] * w * (v[b, 0, j, e] - sum over l of k'[l] * M[l, e]), and output[b, 0, j, e] = scale * sum over i of q'[i] * "
        "S[i, e]. B may be zero. Compute in float32 or better and round output once. All tensors are contiguous; state and output are "
        "the arguments that are written."
    )
    mirrors = "flashinfer.gdn_decode.gated_delta_rule_decode, fla.ops.gated_delta_rule.fused_recurrent_gated_delta_rule"
    level = "L1"
    category = "linear_attn"
    architectures = ("qwen3_next", "qwen3_5", "olmo_hybrid", "gated_deltanet")
    signature = (
        Input("q", "B", 1, "H", "K"),
        Input("k", "B", 1, "H", "K"),
        Input("v", "B", 1, "HV", "V"),
        InOut("state", "B", "HV", "K", "V", dtype="float32"),
        Weight("A_log", "HV", dtype="float32"),
        Input("a", "B", 1, "HV", doc="Decay, before dt_bias and softplus."),
        Weight("dt_bias", "HV"),
        Input("b", "B", 1, "HV", doc="Strength of the correction, before the sigmoid."),
        Scalar("scale", "float"),
        Output("output", "B", 1, "HV", "V"),
        Scalar("use_qk_l2norm", "bool"),
    )
    numerics = msgspec.structs.replace(N1, name="N4: N1, float32 RMS 1e-3", rms_floor={**N1.rms_floor, "float32": 1e-3})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="fla", file="fla.py", devices=("cuda",), requires="fla"),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 10)}, "cuda": {"B": (1, 100)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 5, "HV": 5, "K": 96, "V": 192}, {"H": 3, "HV": 9}, {"H": 2, "HV": 2, "K": 256, "V": 512}),
        "cuda": ({"H": 30, "HV": 30, "K": 96, "V": 192}, {"H": 16, "HV": 48}, {"H": 6, "HV": 6, "K": 256, "V": 512}),
    }
    batch = "B"

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with and without normalisation in turn."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "norm": index % 2}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; rates of 1 to 16 and steps of 1e-3 to 1e-1 before a token changes them, as models start with."""
        batch, heads, value_heads, keys, values = (workload.sizes[name] for name in ("B", "H", "HV", "K", "V"))
        dtype, norm = getattr(torch, workload.dtype), bool(workload.params.get("norm", 1))

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=draw.generator, device=draw.device)

        def vectors() -> torch.Tensor:
            raw = draw.activation((batch, 1, heads, keys), torch.float32, 2.0)
            # What comes normalised is a little short: a kernel that normalises it again is wrong.
            short = raw / raw.norm(dim=-1, keepdim=True).clamp_min(EPS) * (0.6 + 0.3 * uniform(batch, 1, heads, 1))
            return (draw.vary_rows(raw, 4.0, 1e-3) if norm else short).to(dtype)

        factor = 1.0 if draw.regime is Regime.NORMAL else 0.8 + 0.4 * float(torch.rand((), generator=draw.host))
        return {
            "q": vectors(),
            "k": vectors(),
            "v": draw.vary_rows(draw.activation((batch, 1, value_heads, values), dtype), 8.0, 0.1),
            "state": draw.normal((batch, value_heads, keys, values), torch.float32, 0.5),
            "A_log": draw.weight(lambda: (1 + 15 * uniform(value_heads)).log_()),
            "a": draw.normal((batch, 1, value_heads), dtype),
            "dt_bias": draw.weight(lambda: (10 ** (2 * uniform(value_heads) - 3)).expm1_().log_().to(dtype)),
            "b": draw.normal((batch, 1, value_heads), dtype, 2.0),
            "scale": factor / math.sqrt(keys),
            "use_qk_l2norm": norm,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences dealt out anew; v and state of each value head times a sign and a power of two, the query of each head a sign."""
        batch, heads, value_heads = (workload.sizes[name] for name in ("B", "H", "HV"))
        index = entries.rows(batch)
        factor = entries.signs(batch * value_heads) * entries.powers(batch * value_heads)
        sign = entries.signs(batch * heads)
        plain, states = Rows(index), Rows(_by_head(index, value_heads), factor)
        output = states._replace(factor=factor * sign.repeat_interleave(value_heads // heads, dim=1))
        moved = {**dict.fromkeys(("k", "a", "b"), plain), "q": Rows(_by_head(index, heads), sign), "v": states, "state": states}
        return Rearrangement({**moved}, {"output": output, "state": states})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        query, key, value, state, rate, a, bias, b = (
            torch.as_tensor(args[name]).double() for name in ("q", "k", "v", "state", "A_log", "a", "dt_bias", "b")
        )
        if args["use_qk_l2norm"]:
            query, key = (part * (part.square().sum(-1, keepdim=True) + EPS).rsqrt() for part in (query, key))
        shared = value.shape[2] // key.shape[2]
        query, key = (part[:, 0].repeat_interleave(shared, dim=1)[:, :, None] for part in (query, key))  # [B, HV, 1, K]
        decay = (-rate.exp() * torch.nn.functional.softplus(a + bias)).exp()[:, 0, :, None, None]
        held = state * decay
        held = held + key.mT @ (b.sigmoid()[:, 0, :, None, None] * (value[:, 0, :, None] - key @ held))
        return {"output": (query @ held).transpose(1, 2) * float(args["scale"]), "state": held}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        batch, heads = torch.as_tensor(args["state"]).shape[:2]
        kinds = {"head": torch.arange(heads).repeat(batch), "sequence": torch.arange(batch).repeat_interleave(heads)}
        return {"output": kinds, "state": kinds}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, heads, value_heads, keys, values = (workload.sizes[name] for name in ("B", "H", "HV", "K", "V"))
        states = batch * value_heads * keys * values
        moved = 2 * batch * (heads * keys + value_heads * (values + 1)) + value_heads
        return Cost(bytes=8 * states + moved * getattr(torch, workload.dtype).itemsize + 4 * value_heads, flops=7 * states)


def _by_head(index: torch.Tensor, heads: int) -> torch.Tensor:
    """Sources of sequences as sources of their heads."""
    return (index[:, :, None] * heads + torch.arange(heads, device=index.device)).flatten(1)


TASK = GdnDecode()
