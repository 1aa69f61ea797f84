"""The task contract: everything that one kernel task states about itself.

A task is one folder. Its ``task.py`` defines a `Task` subclass and an instance named ``TASK``; beside it lie ``workloads.jsonl``
(public shapes), ``baselines/`` (production implementations), ``seeds/`` (accepted solutions, one per device language) and
``mutants.toml`` (edits of the seeds that must be rejected). Nothing outside the folder changes when a task is added.
"""

from __future__ import annotations

import abc
import random
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from ._hidden import draw_hidden, place_variants
from .ops import Op, program_helpers
from .signature import Arg, InOut, Input, Metadata, Output, Role, Scalar, TaskError, Weight, dtype_of, evaluate_size, shape_of, strides_of
from .statements import LAYER, N1, SEED_LANGUAGE, Baseline, Cost, Gate, Mutant, Numerics, Workload, read_workloads
from .types import Regime

if TYPE_CHECKING:
    import torch

    from .agreement import Agreement
    from .rearrange import Entries, Rearrangement
    from .recipes import Draw

    Value = torch.Tensor | int | float | bool

__all__ = [
    "LAYER",
    "N1",
    "SEED_LANGUAGE",
    "Arg",
    "Baseline",
    "Cost",
    "Gate",
    "InOut",
    "Input",
    "Metadata",
    "Mutant",
    "Numerics",
    "Op",
    "Output",
    "Role",
    "Scalar",
    "Task",
    "TaskError",
    "Weight",
    "Workload",
    "dtype_of",
    "evaluate_size",
    "read_workloads",
    "shape_of",
    "strides_of"
]


Range = tuple[int, int]


class Task(abc.ABC):
    """One kernel task. Subclasses set the class attributes and define `inputs`, `oracle` and `cost`."""

    entry: ClassVar[str]
    """Name of the function that a submission defines."""
    version: ClassVar[int] = 1
    summary: ClassVar[str]
    """One sentence."""
    semantics: ClassVar[str]
    """Exact definition, as the prompt states it."""
    mirrors: ClassVar[str]
    """The production op whose interface this is."""
    level: ClassVar[str]
    """``L1`` (op), ``L2`` (fused op), ``L3`` (layer), ``L4`` (end-to-end)."""
    category: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    signature: ClassVar[tuple[Arg, ...]]
    numerics: ClassVar[Numerics] = N1
    baselines: ClassVar[tuple[Baseline, ...]]
    regimes: ClassVar[tuple[Regime, ...]] = (Regime.REALISTIC, Regime.EMPTY)
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]]
    """By device: inclusive ranges of the sizes that hidden workloads draw anew."""
    batch: ClassVar[str] = "T"
    """The size that is zero in the `EMPTY` regime."""
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {}
    """By device: sizes of other models (widths, heads); a hidden workload takes one of them half of the time."""
    alignment: ClassVar[int] = 16
    """Bytes of which every tensor's start, and the distance of strided rows, is a multiple. Nothing more is promised."""
    ranks: ClassVar[int] = 1
    """How many processes, each with a GPU of its own, run the entry together; see `ranked.RankedTask`."""
    workspace: ClassVar[Mapping[str, int]] = {}
    """By device: bytes of memory that a rank's peers can reach, if there are several."""
    ops: ClassVar[tuple[Op, ...]] = ()
    """Of a layer or a program: the inner operations that a submission may define, one or several of them, instead of the entry."""
    program: ClassVar[str] = "eager.py"
    """The baseline's file that calls the ops as functions of its own; a submission's take their place."""
    measures: ClassVar[Mapping[str, str]] = {}
    """Outputs that `agreement` measures, and not the usual rule: closeness element by element is not what counts. In words, for the
    prompt."""
    deterministic: ClassVar[bool] = False
    """Whether equal inputs must give equal bits; else the spread is bounded."""

    independent_rows: ClassVar[bool] = False
    """Whether row i of every output depends, but for weights, on row i of the inputs alone, and all of them have the same rows. Then
    `rerandomise` deals single rows out anew."""

    folder: Path
    """Set by the registry."""
    only: tuple[str, ...] = ()
    """Names of the public workloads to which this object is confined; empty: none is left out. Set by the registry."""
    given: tuple[Workload, ...] = ()
    """Workloads of a user in place of the public ones; empty: those of ``workloads.jsonl``. Set by the registry ..."""
    given_by: str = ""
    """... with how the name says where they are from."""

    @abc.abstractmethod
    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        """Values of every argument but the outputs, by name, on ``draw.device``.

        Args:
            workload: Sizes (completed by `complete`), dtype and distribution parameters.
            draw: Seeded generators for the regime. Draw structure that all entries of a timing ring must share (sequence lengths,
                routing histograms) from ``draw.shared``.
        """

    @abc.abstractmethod
    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Expected content of every output and in-out argument, in float64 (integers as they are). Must not mutate ``args``."""

    @abc.abstractmethod
    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        """Compulsory bytes and FLOPs of one call on these inputs."""

    def agreement(self, name: str, actual: torch.Tensor, expected: Mapping[str, torch.Tensor], baseline: float) -> Agreement:
        """The task's own measure of an output that `measures` names: tokens, boxes, embeddings.

        Args:
            name: Of the output.
            actual: What was written.
            expected: The oracle's outputs, by name; entries that are no outputs may hold what the measure needs.
            baseline: The same measure's discrepancy of a production implementation on these inputs; 0 where nobody has asked it.

        Returns:
            How far it is off, and how far it may be.
        """
        raise NotImplementedError(f"{type(self).__name__} names measures, so it must define agreement()")

    def groups(self, args: Mapping[str, Value]) -> dict[str, dict[str, torch.Tensor]]:
        """Groups whose errors are judged apart: by output and kind (``head``, ``expert``), a 1-D int64 tensor of group numbers.

        An output of n elements with m numbers falls into m runs of n / m consecutive elements; runs must divide rows (the last
        dimension) or consist of whole ones.
        """
        return {}

    def unused(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Elements without meaning in this call, by argument: boolean masks that broadcast to it.

        The judge fills those of inputs and metadata with NaN and with huge values in turn, and perturbs only the others. Of weights
        (rows of experts without tokens) the values stay: what is constant between calls is never garbage.
        """
        return {}

    def perturbed(self, args: Mapping[str, Value], rng: random.Random) -> dict[str, dict[str, Value]]:
        """Copies of `args` with one change of structure each (two pages swapped, one token routed anew), by a name for the change.

        Every one must move the oracle, and none may modify `args`. Where there is nothing to change: leave it out.
        """
        return {}

    def rerandomise(self, workload: Workload, entries: Entries) -> Rearrangement:
        """What the slots of a timing ring hold in the next block: known inputs changed in a way whose effect on the outputs is exact.

        Without it, answers remembered by the content of the inputs would be right. The default deals the rows of all exchangeable
        slots out anew where rows are independent, else whole sets. A task that knows more (signs, powers of two, relabelled pages)
        overrides it; the work that an entry means must stay the same.

        Args:
            workload: With completed sizes.
            entries: The slots, their sets, and random choices that fit them.
        """
        from .rearrange import Rearrangement, Rows

        arguments = [arg for arg in self.signature if arg.role in (Role.INPUT, Role.INOUT, Role.METADATA)]
        units = shape_of(self.outputs[0], workload.sizes)[0] if self.independent_rows else 1
        rows = Rows(entries.rows(units))
        return Rearrangement({arg.name: rows for arg in arguments}, {arg.name: rows for arg in self.outputs})

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes with the dependent ones (capacities, padded lengths) filled in."""
        return dict(sizes)

    @property
    def entry_signature(self) -> tuple[Arg, ...]:
        """The arguments that the entry takes. `signature` is what the judge handles: of a multi-GPU task, those of all ranks."""
        return self.signature

    @property
    def program_helpers(self) -> tuple[str, ...]:
        """Which of ``plan`` and ``prepare`` the program around the ops defines."""
        return program_helpers(self) if self.ops else ()

    @property
    def outputs(self) -> tuple[Arg, ...]:
        """Arguments that the entry writes: outputs and in-out ones."""
        return tuple(arg for arg in self.signature if arg.role in (Role.OUTPUT, Role.INOUT))

    @property
    def name(self) -> str:
        """The name under which `load_task` finds it: ``rms_norm``, or ``rms_norm[cpu-decode-16]`` if it is confined to workloads."""
        within = self.given_by or ",".join(self.only)
        return self.folder.name + (f"[{within}]" if within else "")

    def workloads(self, device: str) -> list[Workload]:
        """Public workloads of a device kind, in file order."""
        public = [workload for workload in self._stated(device) if not workload.overflow]
        return [workload for workload in public if workload.name in self.only] if self.only else public

    def left_out(self, device: str) -> list[Workload]:
        """Public workloads of a device kind to which this object is not confined."""
        inside = {workload.name for workload in self.workloads(device)}
        return [workload for workload in self._stated(device) if not workload.overflow and workload.name not in inside]

    def overflow_workloads(self, device: str) -> list[Workload]:
        """Shapes with indices beyond 2^31 on a device kind."""
        return [workload for workload in self._stated(device) if workload.overflow]

    def _stated(self, device: str) -> list[Workload]:
        own = read_workloads(self.folder / "workloads.jsonl", self.folder.name)
        stated = [*self.given, *(w for w in own if w.overflow)] if self.given else own
        return [w for w in stated if w.device == device]

    def smoke_workload(self, device: str) -> Workload:
        """The public workload of the smoke check."""
        public = self.workloads(device)
        if not public:
            there = ", ".join(workload.name for workload in self.left_out(device))
            help = f"those are {there}" if there else "add one to workloads.jsonl"
            raise TaskError(f"task {self.name!r} has no public workload for device {device!r}; {help}")
        return next((w for w in public if w.smoke), public[0])

    def hidden_workloads(self, device: str, rng: random.Random, count: int) -> list[Workload]:
        """Workloads with ragged sizes around the public ones, drawn anew for an evaluation. No public one serves twice before all did.

        Every other one has sizes at the edges: the smallest and the largest, beside powers of two and multiples of common tiles.
        """
        return draw_hidden(self, device, rng, count)

    def place_variants(self, device: str, rng: random.Random, count: int) -> dict[int, Mapping[str, int]]:
        """Variants of hidden workloads by number: one of every two has one, no variant comes twice before all did.

        Were each a matter of chance, a mask over columns would go unseen in one evaluation of eight.
        """
        return place_variants(self.variants.get(device, ()), rng, count)

    def seeds(self) -> dict[str, str]:
        """Seed solutions by file name (``cpu.cpp``, ``triton.py``, ``cuda.cu``)."""
        files = sorted(path for path in (self.folder / "seeds").iterdir() if path.suffix in SEED_LANGUAGE)
        return {path.name: path.read_text() for path in files}

    def plain_baseline(self, device: str) -> Baseline | None:
        """The first baseline that needs no package of its own and no compiler; None if there is none."""
        plain = (b for b in self.baselines if device in b.devices and not b.compile and not b.requires)
        return next(plain, None)

    def mutants(self) -> list[Mutant]:
        """Edits of the seeds that the judge must reject.

        Raises:
            TaskError: ``mutants.toml`` is malformed; the message says where.
        """
        path = self.folder / "mutants.toml"
        if not path.exists():
            return []
        try:
            return msgspec.convert(tomllib.loads(path.read_text()).get("mutant", []), list[Mutant])
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise TaskError(f"task {self.folder.name!r}: {path} is no list of mutants: {error}") from error

    def mutate(self, mutant: Mutant) -> str:
        """Source of a mutant.

        Raises:
            TaskError: There is no such seed, or ``find`` does not occur exactly once in it.
        """
        seeds = self.seeds()
        if mutant.seed not in seeds:
            raise TaskError(f"mutant {mutant.name!r} of {self.folder.name!r}: there is no seeds/{mutant.seed}, only {', '.join(seeds)}")
        source = seeds[mutant.seed]
        if source.count(mutant.find) != 1:
            raise TaskError(
                f"mutant {mutant.name!r} of {self.folder.name!r}: its 'find' text must occur once in seeds/{mutant.seed}, "
                f"it occurs {source.count(mutant.find)} times; make it longer or follow the seed"
            )
        return source.replace(mutant.find, mutant.replace)
