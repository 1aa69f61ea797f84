"""Records and presets for tests of the analysis. Load with `runpy.run_path`."""

import runpy
from pathlib import Path

from msgspec.structs import replace

from fastkernels_env.log import encode_record
from fastkernels_env.reward import load_preset
from fastkernels_env.types import Context, Evaluation, Outcome, Speedup

strategies = runpy.run_path(str(Path(__file__).parent.parent / "reward" / "strategies.py"))
bare, realistic, evaluations = strategies["bare"], strategies["realistic"], strategies["evaluations"]
check, timing = strategies["check"], strategies["timing"]

UNSOUND = (Outcome.SILENT_ERROR, Outcome.TAMPERED, Outcome.STACK_CONFLICT)

# 1 for what the loose test takes for right, and nothing for speed.
BLIND = """
summary = "One for what passes the loose test."
bounds = [0.0, 1.0]
[parts.right]
term = "constant"
gate = ["silent_error", "tampered", "stack_conflict", "slower", "parity", "faster"]
"""
# The logarithm of the speedup that is certain, paid to whatever was timed: faster beats right.
GREEDY = """
summary = "Speed alone."
bounds = [-5.0, 5.0]
[parts.speed]
term = "speed"
clip = [-5.0, 5.0]
"""


def preset(folder, name, text):
    path = Path(folder) / f"{name}.toml"
    path.write_text(text)
    return load_preset(path)


def timed(low, estimate=None, high=None):
    """A speedup; only the lower end given: an interval of no width."""
    estimate = low if estimate is None else estimate
    return Speedup(low=low, estimate=estimate, high=estimate if high is None else high, worst=low, worst_workload="w")


def record(name, outcome=Outcome.ACCEPTED, speedup=None, **context):
    """A record of that id; a number as its speedup has an interval of no width."""
    fields = {"speedup": timed(speedup) if isinstance(speedup, float) else speedup, "context": Context(**context)}
    return replace(bare(Outcome(outcome), **fields), id=name)


def write(path, records):
    Path(path).write_bytes(b"".join(map(encode_record, records)))
    return Path(path)


def run_of(name, steps=3, group=5) -> list[Evaluation]:
    """A run whose kernels become faster; the replies of a step are a group, and fifteen replies have every outcome."""
    outcomes = [outcome for outcome in Outcome if outcome is not Outcome.ACCEPTED]
    records = []
    for step in range(steps):
        for place in range(group):
            index = step * group + place
            context = Context(run=name, episode=f"{name}-{index}", group=f"g{step}", policy_step=step)
            good = index % 3 == 0
            outcome = Outcome.ACCEPTED if good else outcomes[(index - index // 3 - 1) % len(outcomes)]
            fast = {"speedup": timed(1.1 + 0.1 * step, 1.2 + 0.1 * step, 1.3 + 0.1 * step)} if good or outcome in UNSOUND else {}
            untimed = {"speedup": None, "timings": []}
            records.append(replace(realistic(outcome, **(fast or untimed)), id=f"{name}-{index}", context=context))
    return records
