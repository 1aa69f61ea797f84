"""One step of the selective state space model: the recurrence of Mamba2, at decode."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...state_pool import deal, draw_slots, pool_slots
from ...task import N1, Baseline, Cost, InOut, Input, Metadata, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class SsmUpdate(Task):
    """A matrix of state for every head, which decays and takes in one token."""

    entry = "selective_state_update"
    summary = "Decay every head's state, add the new token to it, in place, and read the result out; gate it."
    semantics = (
        "T sequences with one new token each. With s = dt[t, h] + dt_bias[h]: d = log(1 + exp(s)) if dt_softplus, else d = s. With g = "
        "h // (H / G) the group of head h and n = state_batch_indices[t] the slot of sequence t: S[p, i] = exp(A[h] * d) * state[n, h, p, "
        "i] + d * x[t, h, p] * B[t, g, i] and out[t, h, p] = (sum over i of S[p, i] * C[t, g, i] + D[h] * x[t, h, p]) * silu(z[t, h, p]) "
        "with silu(y) = y / (1 + exp(-y)). state[n, h] becomes S. An entry with n = -1 is padding: its out is as if its state had been "
        "zeros, and nothing is stored. Slots that no entry names stay as they are; no two entries name the same. Compute in float32 or "
        "better, round out once. x, B and C are slices of wider rows: their row stride may be larger than their width. All else is "
        "contiguous."
    )
    mirrors = "flashinfer.mamba.selective_state_update (dt, A, D and dt_bias tied over a head, not expanded), vllm selective_state_update"
    level = "L1"
    category = "linear_attn"
    architectures = ("mamba2", "nemotron_h", "zamba2", "falcon_h1", "bamba", "granite_moe_hybrid")
    signature = (
        InOut("state", "N", "H", "p", "n", dtype="float32", doc="Pool of states."),
        Input("x", "T", "H", "p", row_stride="row_stride"),
        Input("dt", "T", "H"),
        Weight("A", "H", dtype="float32", doc="Negative."),
        Input("B", "T", "G", "n", row_stride="row_stride"),
        Input("C", "T", "G", "n", row_stride="row_stride"),
        Weight("D", "H"),
        Input("z", "T", "H", "p", doc="Gate."),
        Weight("dt_bias", "H"),
        Scalar("dt_softplus", "bool"),
        Metadata("state_batch_indices", "T", doc="Slot of each sequence, -1 for padding."),
        Output("out", "T", "H", "p"),
    )
    numerics = msgspec.structs.replace(N1, name="N4: N1, float32 RMS 1e-3", rms_floor={**N1.rms_floor, "float32": 1e-3})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="flashinfer", file="flashinfer.py", devices=("cuda",), requires="flashinfer"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"T": (1, 12)}, "cuda": {"T": (1, 100)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 16, "G": 4, "p": 80}, {"H": 24, "G": 1, "n": 64}, {"H": 12, "G": 1, "n": 256}),
        "cuda": ({"H": 128, "G": 8, "p": 80}, {"H": 64, "G": 1, "n": 64}, {"H": 24, "G": 1, "n": 256}),
    }

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Slots N of the pool."""
        return {**sizes, "N": pool_slots(sizes["T"])}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with and without softplus in turn."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "softplus": index % 2}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; steps d of 1e-3 to 1e-1 before a token changes them, and A from -16 to -1, as models start with."""
        tokens, slots, heads, groups, width, size = (workload.sizes[name] for name in ("T", "N", "H", "G", "p", "n"))
        dtype, softplus = getattr(torch, workload.dtype), bool(workload.params.get("softplus", 1))

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=draw.generator, device=draw.device)

        def bias() -> torch.Tensor:
            step = 10 ** (2 * uniform(heads) - 3)
            return (step.expm1().log() if softplus else step).to(dtype)  # the inverse of softplus

        move = draw.normal((tokens, heads), torch.float32, 1.0)
        return {
            "state": draw.vary_rows(draw.normal((slots, heads, width, size), torch.float32), 8.0, 0.1),
            "x": draw.vary_rows(draw.activation((tokens, heads, width), dtype), 4.0, 0.1),
            "dt": (move if softplus else move.abs() / 32).to(dtype),
            "A": draw.weight(lambda: -1 - 15 * uniform(heads)),
            "B": draw.activation((tokens, groups, size), dtype),
            "C": draw.activation((tokens, groups, size), dtype),
            "D": draw.weight(lambda: draw.normal((heads,), dtype).abs_().add_(0.5)),
            "z": draw.activation((tokens, heads, width), dtype),
            "dt_bias": draw.weight(bias),
            "dt_softplus": softplus,
            "state_batch_indices": draw_slots(draw, tokens, slots),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences dealt out anew, with other slots; x and state of each times a sign and a power of two: out is linear in both."""
        tokens = workload.sizes["T"]
        dealt = deal(entries, "state_batch_indices", tokens, workload.sizes["N"])
        factor = entries.signs(tokens) * entries.powers(tokens)
        plain, scaled, states = Rows(dealt.entries), Rows(dealt.entries, factor), dealt.scaled(factor)
        moved: dict[str, Rows | torch.Tensor] = dict.fromkeys(("dt", "B", "C", "z"), plain)
        moved |= {"x": scaled, "state": states, "state_batch_indices": dealt.indices}
        return Rearrangement(moved, {"out": scaled, "state": states})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, dt, decay, skip, z, bias = (torch.as_tensor(args[name]).double() for name in ("x", "dt", "A", "D", "z", "dt_bias"))
        states, indices = torch.as_tensor(args["state"]).double(), torch.as_tensor(args["state_batch_indices"]).long()
        step = dt + bias
        step = torch.nn.functional.softplus(step) if args["dt_softplus"] else step
        by_group = (torch.as_tensor(args[name]).double() for name in ("B", "C"))
        into, outof = (part.repeat_interleave(x.shape[1] // part.shape[1], dim=1) for part in by_group)
        live = indices >= 0
        old = states[indices.clamp_min(0)] * live[:, None, None, None]
        new = old * (decay * step).exp()[:, :, None, None] + (step[:, :, None] * x)[:, :, :, None] * into[:, :, None]
        out = ((new @ outof[:, :, :, None]).squeeze(3) + skip[:, None] * x) * torch.nn.functional.silu(z)
        return {"out": out, "state": states.index_copy(0, indices[live], new[live])}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        (tokens, heads, _), slots = torch.as_tensor(args["x"]).shape, len(torch.as_tensor(args["state"]))
        of_out = {"head": torch.arange(heads).repeat(tokens), "sequence": torch.arange(tokens).repeat_interleave(heads)}
        of_state = {"head": torch.arange(heads).repeat(slots), "slot": torch.arange(slots).repeat_interleave(heads)}
        return {"out": of_out, "state": of_state}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """All entries get the slot of the entry before them."""
        indices = torch.as_tensor(args["state_batch_indices"])
        return {"the slots": {**args, "state_batch_indices": indices.roll(1)}} if len(indices) > 1 else {}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        tokens, heads, groups, width, size = (workload.sizes[name] for name in ("T", "H", "G", "p", "n"))
        live = int((torch.as_tensor(args["state_batch_indices"]) >= 0).sum()) * heads * width * size
        moved = tokens * (3 * heads * width + heads + 2 * groups * size) * getattr(torch, workload.dtype).itemsize
        return Cost(bytes=8 * live + moved + 4 * (heads + tokens), flops=5 * live + 1)


TASK = SsmUpdate()
