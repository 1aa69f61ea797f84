"""Every record of the library, in one module.

Records are frozen `msgspec` structs: they encode to JSON as they stand, decode strictly, and carry no behaviour beyond small
derived properties. Data flows one way: text -> `Submission` -> `Artifact` -> outputs -> `Evaluation` -> `Reward`.

Units: times in microseconds where a name ends in ``_us``, in seconds otherwise; sizes in bytes.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1
"""Version of the evaluation record. It grows when a field changes its meaning; added fields do not change it."""


class Outcome(enum.StrEnum):
    """What became of a submission. Exactly one per evaluation."""

    REJECTED = "rejected"
    """No usable code, no entry, an entry that breaks the task's signature, or a language this device cannot judge."""
    BUILD_FAILED = "build_failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    WRONG = "wrong"
    """Fails smoke: a loose unit test would have caught it."""
    SILENT_ERROR = "silent_error"
    """Passes smoke, fails verification: a loose unit test would have accepted it."""
    STACK_CONFLICT = "stack_conflict"
    """Right when called eagerly, breaks in the compile or runtime stack."""
    TAMPERED = "tampered"
    UNMEASURED = "unmeasured"
    """Right, but this device cannot time this language (Triton on a CPU): no speed, no claim."""
    ACCEPTED = "accepted"
    """Every check that exists and is required on this device passed."""
    FAULT = "fault"
    """Ours, not the submission's. Carries no reward."""


class Stage(enum.StrEnum):
    """The stages of an evaluation, in order."""

    BUILD = "build"
    SMOKE = "smoke"
    VERIFY = "verify"
    INTEGRATE = "integrate"
    PROFILE = "profile"


class Status(enum.StrEnum):
    """State of a check. Only `PASSED` is evidence of success; `NOT_RUN` never is."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"


class Evidence(enum.StrEnum):
    """Who saw it: the judge compared bytes or time, or the submission's own process said so."""

    JUDGED = "judged"
    REPORTED = "reported"


class Language(enum.StrEnum):
    """Source languages of a submission."""

    PYTHON = "python"
    """A Python module: Triton, or anything importable."""
    CPP = "cpp"
    CUDA = "cuda"


class Regime(enum.StrEnum):
    """How the values (and the structure) of a workload's inputs are drawn."""

    NORMAL = "normal"
    """Standard normal activations: what common benchmarks use, and what smoke uses."""
    REALISTIC = "realistic"
    """Normal times log-normal channel scale, 0.1 % outliers at 20-50x, perturbed parameters."""
    SKEWED = "skewed"
    """Realistic values on an adversarial structure: hot experts, empty experts, one very long sequence."""
    EMPTY = "empty"
    """A zero-length batch: nothing may be written, nothing may crash."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One named check of one evaluation."""

    name: str
    stage: Stage
    status: Status
    evidence: Evidence = Evidence.JUDGED
    detail: str = ""


class Speedup(msgspec.Struct, frozen=True, kw_only=True):
    """Baseline time over candidate time, count-weighted over workloads, with a 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float
    worst: float
    """The lowest per-workload ratio."""
    worst_workload: str


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one workload: medians, and the raw samples they come from."""

    workload: str
    count: int
    candidate_us: float
    baselines: dict[str, float]
    """Median microseconds per call, by baseline."""
    best_baseline: str
    speed_of_light: float | None
    """Fraction of the host's measured rates that the candidate reaches (1.0: as fast as the hardware allows)."""
    floor_us: float | None = None
    """Time under which a result is void: compulsory traffic and work over published peaks."""
    mode: str = "eager"
    """``graph`` (CUDA graph replay) or ``eager`` (a loop of calls), followed by the reason where the device has graphs."""
    calls: int = 0
    """K: samples come from blocks of K and of 2K calls."""
    candidate_samples_us: list[float] = []
    """One per round."""
    baseline_samples_us: dict[str, list[float]] = {}
    """One per round; fewer for a baseline that was left out after the first rounds, being far slower than another."""
    sealed_pairs: int = 0
    """Sealed calls of the candidate and of its best baseline."""
    sealed_excess_us: float = 0.0
    """By how much the candidate was slower, against that baseline, in sealed calls than in a row: an estimate with an interval."""
    sealed_low_us: float = 0.0
    sealed_high_us: float = 0.0
    sealed_allowed_us: float = 0.0
    """Excess that honest kernels show."""
    sealed_added_us: float = 0.0
    """What was added to the candidate's time, since the slower of the two scores; part of `candidate_us` and its samples."""
    eager_us: float | None = None
    """Time per call in a loop of calls; where `mode` is ``graph``, `candidate_us` is that of a graph's replay and is what scores."""
    baseline_eager_us: float | None = None
    """The same of the best baseline."""
    clocks: dict[str, float] = {}
    """MHz, throttle reasons and the like before (``before_...``) and after (``after_...``) the workload, and ``measured`` times."""


class BaselineReport(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline of the task on this device: used, or why not."""

    name: str
    status: Literal["used", "not_available", "failed", "skipped"]
    detail: str = ""


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The device that an evaluation ran on."""

    kind: str
    """``cpu`` or ``cuda``."""
    name: str
    uuid: str = ""
    cores: int = 0
    memory_bytes: int = 0
    cache_bytes: int = 0
    """Last-level cache: L2 on a GPU."""
    clocks: dict[str, float] = {}
    """MHz, and throttle reasons as numbers, read when the evaluation ran."""
    peers: tuple[str, ...] = ()
    """Of a task of several ranks: UUIDs of the GPUs of all but the first."""


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of a host: bytes per second, FLOP per second by dtype, bytes per second from one device to others (0 if it is not known)."""

    copy_bytes_per_s: float
    flops_per_s: dict[str, float] = {}
    link_bytes_per_s: float = 0.0


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken out of a reply: the code, its language and the entry it defines."""

    code: str
    language: Language
    entry: str
    arguments: tuple[str, ...]
    has_prepare: bool = False
    has_plan: bool = False
    kernels: tuple[str, ...] = ()
    """Names of the device kernels that the code defines."""
    ops: tuple[str, ...] = ()
    """The inner operations of a layer or a program that the code defines in place of the entry; see `ops`."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """Something a worker can load: a shared library, or a Python module's source file."""

    path: str
    language: Language
    entry: str
    has_prepare: bool = False
    has_plan: bool = False
    ops: tuple[str, ...] = ()
    log: str = ""
    resources: dict[str, float] = {}
    """Registers, shared memory, spills of compiled kernels, where the compiler said so."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Ids that a caller may attach to an evaluation, so that later analysis can group the records."""

    run: str = ""
    episode: str = ""
    group: str = ""
    turn: int = 0
    policy_step: int = 0


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """A reward and its parts. `total` is None on a fault: no reward is invented."""

    preset: str
    total: float | None
    parts: dict[str, float] = {}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one evaluation: measurements from which any reward can be derived later, without a device."""

    schema_version: int = SCHEMA_VERSION
    id: str
    created: str
    """UTC, ISO 8601."""
    task: str
    task_version: int
    device: DeviceInfo
    effort: str
    seed: int
    """Seeds every input of this evaluation; pass it again to replay."""
    outcome: Outcome
    reason: str
    """One line: which check decided, and what it saw."""
    decided_by: str = ""
    """Name of the check that decided; where the submission's process raised, died or hung, of the stage in which it did. Empty where
    nothing stands against the submission (`accepted`, `unmeasured`), and for a `fault`."""
    faults: list[str] = []
    """Why earlier attempts at this evaluation failed, without the submission being at fault."""
    checks: list[Check] = []
    speedup: Speedup | None = None
    baselines: list[BaselineReport] = []
    timings: list[Timing] = []
    workloads_right: float = 0.0
    """Share of the verified cases that were right, 0 to 1."""
    own_kernel_share: float | None = None
    """Share of device time in the submission's own kernels (reported); None where it was not measured."""
    setup_us: dict[str, float] = {}
    """Time of `prepare` and `plan` per call, candidate and baselines."""
    seconds: dict[str, float] = {}
    """By stage, and ``total``; ``alone``: with the device to itself, ``waited``: for it. Without moments in which others measured."""
    feedback: str = ""
    duplicate_of: str = ""
    """Id of the evaluation that this one repeats: the same source in the same batch was judged once."""
    text: str = ""
    """The reply as it came."""
    code: str = ""
    """The code that was taken out of it."""
    language: str = ""
    prompt_hash: str = ""
    build_log: str = ""
    resources: dict[str, float] = {}
    context: Context = Context()
    containment: list[str] = []
    """Layers that separated the submission from the judge."""
    missing_containment: list[str] = []
    versions: dict[str, str] = {}
    rewards: dict[str, Reward] = {}

    def check(self, name: str) -> Check | None:
        """The check of that name, or None."""
        return next((check for check in self.checks if check.name == name), None)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One reply of a batch: the arguments of `Evaluator.evaluate`."""

    task: str
    text: str
    seed: int | None = None
    effort: str | None = None
    context: Context = Context()
    prompt_hash: str = ""
    deadline: float | None = None
    """Seconds after which it is given up; None: as the batch says."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an item of a batch."""

    index: int
    """Position of the item in its batch."""
    item: Item
    evaluation: Evaluation


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is."""

    judging: int
    """Items that were handed to a judge and have no answer yet."""
    done: int
    duplicates: int
    """How many of them repeat another one's answer."""
    outcomes: dict[str, int]


def to_dict(record: msgspec.Struct) -> dict[str, Any]:
    """Plain data of a record: dicts, lists, strings and numbers only."""
    data: dict[str, Any] = msgspec.to_builtins(record)
    return data
