"""Adaptive layer norm of diffusion transformers: gated residual, LayerNorm, and modulation by the conditioning of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import torch

from ...attention import tensor
from ...rearrange import Rearrangement, Rows
from ...task import N1, Baseline, Cost, InOut, Input, Output, Scalar, Task, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value


class AdalnModulate(Task):
    """What follows a branch of a DiT block (gate, residual) and what precedes the next (norm, scale, shift), in one pass."""

    entry = "adaln_modulate"
    summary = "Add the gated branch to the residual in place, layer-normalise the sum, scale and shift it by the sample's modulation."
    semantics = (
        "Sample b has N tokens of H channels. With y[b, n, h] = residual[b, n, h] + gate[b, h] * branch[b, n, h] if gated is true, else "
        "y = residual, and m and v the mean and the mean squared deviation of y[b, n] over h: out[b, n, h] = (y[b, n, h] - m) / "
        "sqrt(v + eps) * (1 + scale[b, h]) + shift[b, h], and residual[b, n, h] becomes y[b, n, h]. If gated is false, branch and gate "
        "have no meaning and residual stays as it is. The norm is taken of the unrounded sum, and a row's mean may be many times its "
        "deviation. Accumulate in float32 or better and round once, at the end. The modulations are slices of one projection's output: "
        "the rows of gate, scale and shift may be further apart than they are long. All other tensors are contiguous. B may be zero."
    )
    mirrors = "diffusers AdaLayerNormZero and AdaLayerNormZeroSingle with the gated residual before them (FluxTransformerBlock)"
    level = "L2"
    category = "vision"
    architectures = ("flux", "hunyuan_video", "oasis", "cosyvoice3")
    signature = (
        Output("out", "B", "N", "H"),
        InOut("residual", "B", "N", "H"),
        Input("branch", "B", "N", "H", doc="Output of the attention or the MLP."),
        Input("gate", "B", "H", row_stride="row_stride"),
        Input("scale", "B", "H", row_stride="row_stride"),
        Input("shift", "B", "H", row_stride="row_stride"),
        Scalar("eps", "float"),
        Scalar("gated", "bool", doc="Whether branch and gate take part."),
    )
    # As in layer_norm: a mean of 64 standard deviations in one float32 accumulator is off by up to 1e-4 of them.
    numerics = msgspec.structs.replace(N1, name="N1, float32 RMS 5e-5", rms_floor={**N1.rms_floor, "float32": 5e-5})
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 4), "N": (1, 150)}, "cuda": {"B": (1, 8), "N": (1, 2000)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"H": 1152}, {"H": 2432}, {"H": 1536}),
        "cuda": ({"H": 1152}, {"H": 2432}, {"H": 1536}, {"H": 5120}),
    }
    batch = "B"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument; ``workload.params``: ``gated``, 0 or 1."""
        samples, tokens, width = (workload.sizes[name] for name in ("B", "N", "H"))
        shape, dtype = (samples, tokens, width), getattr(torch, workload.dtype)
        residual = draw.vary_rows(draw.activation(shape, dtype), 1e3 if dtype != torch.float16 else 10.0, 3e-3)
        residual.mul_(draw.normal(shape, dtype, 1 / 64).add_(1))  # so that a constant row has a mean of 64 deviations
        branch = draw.activation(shape, dtype)
        if draw.regime is not Regime.NORMAL:
            # A branch is about as large as what it is added to; else no row would be small enough to show a wrong epsilon.
            branch.mul_(residual.float().square().mean(-1, keepdim=True).sqrt().to(dtype))
        gate, scale, shift = (draw.activation((samples, width), dtype, size) for size in (0.5, 0.3, 0.5))
        return {
            "residual": residual, "branch": branch, "gate": gate, "scale": scale, "shift": shift, "eps": 1e-6,
            "gated": bool(workload.params["gated"]),
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Samples dealt out anew with their modulation, the tokens of each in another order.

        A sign of the residual and of the shift goes through to both outputs, and one of the gate cancels with the branch's.
        """
        samples, tokens = workload.sizes["B"], workload.sizes["N"]
        sample = entries.rows(samples)
        source = (sample[:, :, None] * tokens + entries.permutations(tokens)[:, None]).flatten(1)
        sign, gate = entries.signs(samples), entries.signs(samples)
        moved = Rows(source, sign.repeat_interleave(tokens, 1))
        return Rearrangement(
            {
                "residual": moved, "branch": Rows(source, (sign * gate).repeat_interleave(tokens, 1)), "gate": Rows(sample, gate),
                "scale": Rows(sample), "shift": Rows(sample, sign),
            },
            {"out": moved, "residual": moved},
        )

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        gate, scale, shift = (tensor(args, name).double().unsqueeze(1) for name in ("gate", "scale", "shift"))
        y = tensor(args, "residual").double()
        if args["gated"]:
            y = y + gate * tensor(args, "branch").double()
        normed = torch.nn.functional.layer_norm(y, y.shape[-1:], eps=float(args["eps"]))
        return {"out": normed * (1 + scale) + shift, "residual": y}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        sample = torch.arange(tensor(args, "residual").shape[0])
        return {"out": {"sample": sample}, "residual": {"sample": sample}}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Without a gate, branch and gate."""
        named = {name: tensor(args, name) for name in ("branch", "gate")}
        return {} if args["gated"] else {name: torch.ones_like(value, dtype=torch.bool) for name, value in named.items()}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        samples, tokens, width = (workload.sizes[name] for name in ("B", "N", "H"))
        passes, rows, flops = (4, 3, 11) if workload.params["gated"] else (2, 2, 9)
        item = getattr(torch, workload.dtype).itemsize
        return Cost(bytes=(passes * tokens + rows) * samples * width * item, flops=flops * samples * tokens * width)


TASK = AdalnModulate()
