"""What a task states about itself: its shapes, what they cost, how close is right, what it is compared with, what must be rejected."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .signature import TaskError
from .types import Language

SEED_LANGUAGE = {".cpp": Language.CPP, ".cu": Language.CUDA, ".py": Language.PYTHON}
"""By the end of a seed's file name."""


class Gate(msgspec.Struct, frozen=True):
    """Per-element tolerance: ``|actual - expected| <= atol + rtol * |expected|``."""

    atol: float
    rtol: float


class Numerics(msgspec.Struct, frozen=True, kw_only=True):
    """How close outputs must be to the oracle.

    Attributes:
        gates: Verification tolerance by output dtype. At least 99 % of elements must be inside, none past 10 gates.
        smoke: The loose tolerance that common benchmarks use, by output dtype.
        outputs: Gates of single outputs that differ from their dtype's.
        rms_floor: Smallest relative RMS limit by output dtype: what honest reorderings of a sum cost.
        roundings: How many roundings of intermediate results may widen the gate of an element, where production errs by that much.
    """

    name: str
    gates: dict[str, Gate]
    smoke: dict[str, Gate] = msgspec.field(
        default_factory=lambda: {
            "float32": Gate(1e-4, 1e-4), "float64": Gate(1e-4, 1e-4), "float16": Gate(1e-2, 1e-2), "bfloat16": Gate(1e-2, 1e-2)
        }
    )
    outputs: dict[str, Gate] = {}
    rms_floor: dict[str, float] = msgspec.field(
        default_factory=lambda: {"float32": 1e-5, "float64": 1e-9, "float16": 0.0, "bfloat16": 0.0}
    )
    roundings: float = 4.0


N1 = Numerics(
    name="N1",
    gates={"float16": Gate(1e-2, 1e-2), "bfloat16": Gate(1e-2, 1e-2), "float32": Gate(1e-5, 1e-3), "float64": Gate(1e-5, 1e-3)},
)
"""16-bit results with fp32 accumulation; fp32 at 1e-5 absolute and 1e-3 relative, TF32 not legal."""


LAYER = msgspec.structs.replace(
    N1, name="N1, as far off as production", roundings=64.0,
    smoke=N1.smoke | {"float32": Gate(1e-3, 1e-3), "float16": Gate(0.05, 0.05), "bfloat16": Gate(0.1, 0.1)},
)
"""Of layers and programs, whose 16-bit activations are rounded many times: production's own error on the same inputs is the measure."""


class Cost(msgspec.Struct, frozen=True):
    """Compulsory work of one call: bytes moved (inputs once, outputs once) and floating-point operations; bytes that leave a rank."""

    bytes: int
    flops: int
    link: int = 0


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One shape of a task, as production sees it."""

    name: str
    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    sizes: dict[str, int]
    count: int = 1
    """How often production calls this shape: the weight of its time in the score."""
    source: str = ""
    """Model, layer and serving situation that the shape comes from."""
    params: dict[str, float] = {}
    """Parameters of the input distribution (page pool, length median, skew)."""
    smoke: bool = False
    """The shape of the smoke check; the first workload of a device if none is marked."""
    overflow: bool = False
    """A shape with indices beyond 2^31, only for the check of that name: neither public nor timed."""
    sampled: str = ""
    """The size along which an overflow shape's oracle is computed at a few indices only; empty: it is cheap as it is."""
    task: str = ""
    """In a file of several tasks: the one whose shape this is."""
    model: str = ""
    """Of a captured shape: the model ..."""
    revision: str = ""
    """... which of its configurations the sizes follow from ..."""
    workload: str = ""
    """... and the traffic; see ``fastkernels-env capture``."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A production implementation of the task.

    ``file`` is a Python module in the task's ``baselines/`` folder that defines the entry (and perhaps `prepare` and `plan`).
    ``compile`` wraps that entry in ``torch.compile``. ``requires`` names the import that must succeed. ``fallback`` names devices on
    which it takes part only where no other baseline does: plain code that is many times slower than what production runs.
    """

    name: str
    file: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    compile: bool = False
    requires: str = ""
    fallback: tuple[str, ...] = ()


class Mutant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A seed with one edit that makes it wrong. ``find`` must occur exactly once in the seed."""

    name: str
    seed: str
    """File name in ``seeds/``."""
    find: str
    replace: str
    expect: tuple[str, ...] = ("wrong", "silent_error")
    """Outcomes that count as caught."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Devices on which the edit makes a difference. A Triton mutant whose mistake the interpreter cannot show names ``cuda`` alone."""


def read_workloads(path: Path, task: str) -> list[Workload]:
    """Decode a ``workloads.jsonl`` file.

    Raises:
        TaskError: A line is no valid workload; the message names file and line.
    """
    workloads = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            try:
                workloads.append(msgspec.json.decode(line, type=Workload))
            except msgspec.DecodeError as error:
                raise TaskError(f"task {task!r}: {path.name} line {number} is no workload: {error}") from error
    return workloads
