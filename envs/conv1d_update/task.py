"""One step of a causal depthwise convolution: the short convolution of state space models and linear attention, at decode."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...rearrange import Rearrangement, Rows
from ...state_pool import deal, draw_slots, pool_slots
from ...task import N1, Baseline, Cost, Gate, InOut, Metadata, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class Conv1dUpdate(Task):
    """A window of the last tokens for every channel, kept in a pool of states."""

    entry = "causal_conv1d_update"
    summary = "Convolve each channel's last W tokens with its filter, in place, and move its window of past tokens on by one."
    semantics = (
        "Entry b with n = conv_state_indices[b] >= 0 is a sequence whose past W - 1 tokens lie in conv_state[n], oldest first. With "
        "w[d, j] = conv_state[n, d, j] for j < W - 1 and w[d, W - 1] = x[b, d]: y = bias[d] + sum over j < W of weight[d, j] * w[d, j]. "
        "x[b, d] becomes y / (1 + exp(-y)) if activation is true, else y, and conv_state[n, d, j] becomes w[d, j + 1], exactly. Entries "
        "with index -1 are padding: their row of x stays as it is. So do all slots of conv_state that no entry names; no two entries name "
        "the same. Compute in float32 or better and round once. x is usually a slice of wider rows: its row stride may be larger than its "
        "width, and what lies between its rows must stay. All else is contiguous."
    )
    mirrors = "vllm.model_executor.layers.mamba.ops.causal_conv1d.causal_conv1d_update, causal_conv1d.causal_conv1d_update"
    level = "L1"
    category = "linear_attn"
    architectures = ("qwen3_next", "mamba", "mamba2", "jamba", "kimi_linear", "recurrent_gemma")
    signature = (
        InOut("x", "B", "dim", row_stride="row_stride", doc="The new token; becomes the result."),
        InOut("conv_state", "N", "dim", "W-1", doc="Pool of windows."),
        Weight("weight", "dim", "W"),
        Weight("bias", "dim"),
        Scalar("activation", "bool", doc="SiLU, else none."),
        Metadata("conv_state_indices", "B", doc="Slot of each entry, -1 for padding."),
    )
    numerics = msgspec.structs.replace(N1, name="N1, states exact", outputs={"conv_state": Gate(0.0, 0.0)})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
        Baseline(name="fla", file="fla.py", devices=("cuda",), requires="fla"),
        Baseline(name="triton_tuned", file="triton_tuned.py", devices=("cuda",), requires="triton"),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 40)}, "cuda": {"B": (1, 300)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"dim": 1792}, {"dim": 2048, "W": 3}, {"dim": 3328}), "cuda": ({"dim": 4224}, {"dim": 2048, "W": 3}, {"dim": 3328})
    }
    batch = "B"

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Slots N of the pool."""
        return {**sizes, "N": pool_slots(sizes["B"])}

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """As every task's, with and without activation in turn."""
        drawn = super().hidden_workloads(device, rng, count)
        return [msgspec.structs.replace(w, params={**w.params, "silu": index % 2}) for index, w in enumerate(drawn)]

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, slots, width, taps = (workload.sizes[name] for name in ("B", "N", "dim", "W"))
        dtype = getattr(torch, workload.dtype)
        past = draw.vary_rows(draw.activation((slots, taps - 1, width), dtype), 4.0, 1e-2)
        return {
            "x": draw.vary_rows(draw.activation((batch, width), dtype), 4.0, 1e-2),
            "conv_state": past.transpose(1, 2).contiguous(),
            "weight": draw.weight(lambda: draw.normal((width, taps), dtype, 0.5)),
            "bias": draw.weight(lambda: draw.normal((width,), dtype, 0.5)),
            "activation": bool(workload.params["silu"]),
            "conv_state_indices": draw_slots(draw, batch, slots),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Sequences dealt out anew, with other places in the batch and other slots; bias and activation let no sign through."""
        dealt = deal(entries, "conv_state_indices", workload.sizes["B"], workload.sizes["N"])
        moved = {"x": Rows(dealt.entries), "conv_state": Rows(dealt.states)}
        return Rearrangement({**moved, "conv_state_indices": dealt.indices}, moved)

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, states, weight, bias = (torch.as_tensor(args[name]).double() for name in ("x", "conv_state", "weight", "bias"))
        indices = torch.as_tensor(args["conv_state_indices"]).long()
        rows = (indices >= 0).nonzero().flatten()
        window = torch.cat((states[indices[rows]], x[rows, :, None]), dim=2)
        result = (window * weight).sum(2) + bias
        result = torch.nn.functional.silu(result) if args["activation"] else result
        return {"x": x.index_copy(0, rows, result), "conv_state": states.index_copy(0, indices[rows], window[:, :, 1:])}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """All entries get the slot of the entry before them."""
        indices = torch.as_tensor(args["conv_state_indices"])
        return {"the slots": {**args, "conv_state_indices": indices.roll(1)}} if len(indices) > 1 else {}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        width, taps, item = workload.sizes["dim"], workload.sizes["W"], getattr(torch, workload.dtype).itemsize
        live = int((torch.as_tensor(args["conv_state_indices"]) >= 0).sum())
        moved = (2 * taps * live + taps + 1) * width * item + 4 * workload.sizes["B"]
        return Cost(bytes=moved, flops=(2 * taps + 4) * live * width + 1)


TASK = Conv1dUpdate()
