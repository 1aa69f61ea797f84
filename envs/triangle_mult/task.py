"""Triangle multiplicative update: the mixing step of the pair representation in structure prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...rearrange import Rearrangement, Rows
from ...task import Baseline, Cost, Input, Output, Scalar, Task, Weight, Workload
from ...types import Regime

if TYPE_CHECKING:
    from ...rearrange import Entries
    from ...recipes import Draw
    from ...task import Range, Value

WEIGHTS = (
    "norm_in_weight", "norm_in_bias", "p_in_weight", "g_in_weight", "norm_out_weight", "norm_out_bias", "p_out_weight", "g_out_weight"
)


class TriangleMult(Task):
    """Norm, gated projections, products over the third edge of every triangle, norm, projection, gate."""

    entry = "triangle_multiplicative_update"
    summary = "Update each pair of tokens by the products of the other two edges of all triangles that it belongs to, normalised and gated."
    semantics = (
        "With LN(v; w, b) = (v - mean(v)) / sqrt(var(v) + eps) * w + b over the channels of a pair, var the mean square deviation, and "
        "s(v) = 1 / (1 + exp(-v)): z = LN(x; norm_in_weight, norm_in_bias); ab[n, i, j] = mask[n, i, j] * s(g_in_weight @ z[n, i, j]) * "
        "(p_in_weight @ z[n, i, j]), of which the first C channels are a and the last C are b. For every channel, m[n, i, j] = sum over k "
        "of a[n, i, k] * b[n, j, k] if outgoing is true, else sum over k of a[n, k, i] * b[n, k, j]. out[n, i, j] = s(g_out_weight @ "
        "z[n, i, j]) * (p_out_weight @ LN(m[n, i, j]; norm_out_weight, norm_out_bias)). Pairs whose mask is 0 have an output too; m may be "
        "0. Accumulate and normalise in float32 or better; z, a, b, m and its norm may be rounded to the dtype of x, which is what "
        "production does. All tensors are contiguous."
    )
    mirrors = "cuequivariance_torch.triangle_multiplicative_update, openfold3 TriangleMultiplicationOutgoing, -Incoming"
    level = "L2"
    category = "3d_robotics"
    architectures = ("openfold3",)
    signature = (
        Output("out", "B", "N", "N", "C"),
        Input("x", "B", "N", "N", "C"),
        Scalar("outgoing", "bool", doc="Edges that start at i and j, else those that end there."),
        Input("mask", "B", "N", "N", doc="1 for pairs that exist, 0 for others; a factor."),
        Weight("norm_in_weight", "C"),
        Weight("norm_in_bias", "C"),
        Weight("p_in_weight", "2*C", "C"),
        Weight("g_in_weight", "2*C", "C"),
        Weight("norm_out_weight", "C"),
        Weight("norm_out_bias", "C"),
        Weight("p_out_weight", "C", "C"),
        Weight("g_out_weight", "C", "C"),
        Scalar("eps", "float", doc="Of both norms."),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", compile=True),
    )
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"N": (1, 36)}, "cuda": {"N": (1, 500)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {
        "cpu": ({"C": 40}, {"C": 72}, {"C": 96}), "cuda": ({"C": 40}, {"C": 96}, {"C": 192})
    }
    batch = "N"

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        batch, tokens, width = (workload.sizes[name] for name in ("B", "N", "C"))
        dtype = getattr(torch, workload.dtype)
        values = draw.vary_rows(draw.activation((batch, tokens, tokens, width), dtype), 1e3, 3e-3)
        mask = torch.ones((batch, tokens, tokens), device=draw.device)
        if draw.regime is not Regime.NORMAL:
            known = torch.rand((batch, tokens), generator=draw.generator, device=draw.device) > 0.15
            known[:, :1] = True  # one token at least is no padding
            gone = torch.rand(mask.shape, generator=draw.generator, device=draw.device) < 0.05  # not only whole tokens
            mask *= known[:, :, None] & known[:, None, :] & ~gone
        return {
            "x": values.mul_(draw.normal(values.shape, dtype, 1 / 8).add_(1)),  # so that rows of one value have a deviation
            "outgoing": bool(workload.params["outgoing"]),
            "mask": mask.to(dtype),
            "norm_in_weight": draw.parameter((width,), dtype),
            "norm_in_bias": draw.weight(lambda: draw.normal((width,), dtype, 0.3)),
            "p_in_weight": draw.matrix((2 * width, width), dtype, width),
            "g_in_weight": draw.matrix((2 * width, width), dtype, width),
            "norm_out_weight": draw.parameter((width,), dtype),
            "norm_out_bias": draw.weight(lambda: draw.normal((width,), dtype, 0.3)),
            "p_out_weight": draw.matrix((width, width), dtype, width),
            "g_out_weight": draw.matrix((width, width), dtype, width),
            "eps": 1e-5,
        }

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """Members of batches dealt out anew, the tokens of each slot in another order."""
        tokens = workload.sizes["N"]
        members, order = entries.rows(workload.sizes["B"]), entries.permutations(tokens)
        pairs = order[:, None, :, None] * tokens + order[:, None, None, :]
        rows = Rows((members[:, :, None, None] * tokens**2 + pairs).flatten(1))
        return Rearrangement({"x": rows, "mask": rows}, {"out": rows})

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        x, mask = torch.as_tensor(args["x"]).double(), torch.as_tensor(args["mask"]).double()
        norm_in, shift_in, p_in, g_in, norm_out, shift_out, p_out, g_out = (torch.as_tensor(args[name]).double() for name in WEIGHTS)
        eps = float(args["eps"])
        z = torch.nn.functional.layer_norm(x, norm_in.shape, norm_in, shift_in, eps)
        a, b = (mask[..., None] * (z @ g_in.T).sigmoid() * (z @ p_in.T)).permute(0, 3, 1, 2).chunk(2, dim=1)
        mixed = a @ b.transpose(2, 3) if args["outgoing"] else a.transpose(2, 3) @ b
        normed = torch.nn.functional.layer_norm(mixed.permute(0, 2, 3, 1), norm_out.shape, norm_out, shift_out, eps)
        return {"out": (z @ g_out.T).sigmoid() * (normed @ p_out.T)}

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        """Tokens i: of one whose pairs are all masked only the biases are left."""
        batch, tokens = torch.as_tensor(args["mask"]).shape[:2]
        return {"out": {"token": torch.arange(batch * tokens)}}

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        batch, tokens, width = (workload.sizes[name] for name in ("B", "N", "C"))
        pairs = batch * tokens**2
        elements = pairs * (2 * width + 1) + 6 * width**2 + 4 * width
        flops = 2 * pairs * tokens * width + 12 * pairs * width**2
        return Cost(bytes=elements * getattr(torch, workload.dtype).itemsize, flops=flops)


TASK = TriangleMult()
