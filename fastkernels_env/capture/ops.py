"""What is known of an observed call, and what it means for a task: plain data, no torch object is needed."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True):
    """Shape, dtype (torch name) and strides (in elements) of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    stride: tuple[int, ...] = ()


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One observed call.

    Attributes:
        op: ``rms_norm``, ``add_rms_norm``, ``layer_norm``, ``silu_and_mul``, ``gelu_tanh_and_mul``, ``linear``, ``mlp``, ``rope``,
            ``attention``, ``router``, ``experts``, or a custom op's own name (``_C::rms_norm``).
        module: Class of the module that made the call; empty for a function.
        path: Where it sits in the model, with layer numbers as ``*``.
        tensors: By the name of their role; see `match`.
        numbers: What shapes do not say: ``kv_heads``, ``top_k``, ``theta`` and the like; flags are 0 or 1.
        part: Of a linear layer or a norm: ``qkv``, ``out``, ``gate-up``, ``down``, ``router``, ``head``, or the module's own name.
    """

    op: str
    module: str = ""
    path: str = ""
    tensors: dict[str, TensorSpec] = {}
    numbers: dict[str, float] = {}
    part: str = ""


class Layout(msgspec.Struct, frozen=True):
    """How a model is spread over GPUs.

    Attributes:
        tensor: Ranks of tensor parallelism; the shapes of an op are those of one rank.
        sequence: Whether rows are split between those ranks outside of the projections (sequence parallelism).
        experts: Ranks of expert parallelism; tokens are those of one rank, experts those of all.
    """

    tensor: int = 1
    sequence: bool = False
    experts: int = 1


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A task's workload, as far as one op says.

    Attributes:
        fixed: Names of sizes that the model fixes; the others follow the traffic.
        part: As in `Op`, or which of the products of an expert layer.
    """

    task: str
    dtype: str
    sizes: dict[str, int]
    params: dict[str, float] = {}
    fixed: tuple[str, ...]
    part: str = ""
