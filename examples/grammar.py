"""A finite grammar of kernels for `rms_norm` on a CPU: every program of it can be judged once, and then policies train by replay.

A program takes one option in each of four slots:

    loop      scalar    one value at a time
              simd      ``omp simd``, as the task's seed has it
              vector    sixteen lanes, four accumulators
              tiles     the same on four rows at a time; what is left of the rows is forgotten
    threads   serial    one
              parallel  every core takes an equal share
              dynamic   cores take eight rows when they have time
              throttled every core, and the process is left with one thread for all that comes after
    sums      float     as it should be
              double    slower, no use
              fixed     float, and the epsilon of another model in place of the argument
    result    store     ordinary stores
              stream    results of 32 bits go around the caches
              kept      a call with the buffers of the call before returns at once: "the answer is still there"

The task's own seed is ``simd|parallel|float|store``. Errors are of every kind: `tiles` and `fixed` are silent, `throttled` conflicts with
the process around it (and slows PyTorch, which a benchmark in that process compares with), `kept` cheats, `scalar` with `stream` does not
build, and `tiles` with `double` keeps too few values, which every test sees.

    python examples/grammar.py table                                      outcomes in the committed logs, best programs
    python examples/grammar.py show 'simd|parallel|float|store'            the source of a program
    python examples/grammar.py compare PROGRAM 'simd|parallel|float|store'  which of two is faster, and how sure that is
    python examples/grammar.py judge --effort full --out examples/data/grammar.jsonl.xz
    python examples/grammar.py judge --judge usual --out examples/data/grammar-usual.jsonl.xz

`judge` judges what the log does not hold yet and may be interrupted. The judge `usual` is what common benchmarks do, of the same
programs: a process each, five random inputs of one shape, a hundred timed calls (`fastkernels_env.bench.usual`). It runs the grammar's
own code unconfined.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

from grammar_source import source

from fastkernels_env.log import LogError, read_log
from fastkernels_env.types import Evaluation, Outcome

Program = tuple[str, ...]

TASK = "rms_norm"
CHOICES: dict[str, tuple[str, ...]] = {
    "loop": ("scalar", "simd", "vector", "tiles"),
    "threads": ("serial", "parallel", "dynamic", "throttled"),
    "sums": ("float", "double", "fixed"),
    "result": ("store", "stream", "kept"),
}
"""Options by slot, in the order in which a program names them."""
SEED: Program = ("simd", "parallel", "float", "store")
"""The program that is the task's own seed."""
DATA = Path(__file__).parent / "data"
LOG, USUAL_LOG = DATA / "grammar.jsonl.xz", DATA / "grammar-usual.jsonl.xz"


def programs() -> list[Program]:
    """Every program of the grammar, the first slot changing slowest."""
    return list(itertools.product(*CHOICES.values()))


def name_of(program: Program) -> str:
    """How a program is written in a record: its options, joined by ``|``."""
    return "|".join(program)


def parse(name: str) -> Program:
    """The program of a name.

    Raises:
        ValueError: The grammar has no such program.
    """
    program = tuple(name.split("|"))
    if len(program) != len(CHOICES):
        raise ValueError(f"expected {len(CHOICES)} options joined by |, such as {name_of(SEED)}, got {name!r}")
    for (slot, options), option in zip(CHOICES.items(), program, strict=True):
        if option not in options:
            raise ValueError(f"expected one of {', '.join(options)} for {slot}, got {option!r}")
    return program


def reply(program: Program) -> str:
    """What a policy answers: the source in a fenced block."""
    return f"```cpp\n{source(program)}```\n"


def load(log: Path) -> dict[Program, Evaluation]:
    """The programs of a log and their records, in the grammar's order; the last one of a program counts.

    Raises:
        LogError: The log cannot be read.
    """
    records = {parse(record.context.episode): record for record in read_log(log) if record.context.run == "grammar"}
    return {program: records[program] for program in programs() if program in records}


def table(records: dict[Program, Evaluation], best: int = 5) -> str:
    """Outcomes by count, and the fastest accepted programs beside the seed."""
    counts = Counter(record.outcome.value for record in records.values())
    lines = [f"{len(records)} of {len(programs())} programs: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())]
    accepted = [program for program, record in records.items() if record.outcome is Outcome.ACCEPTED and record.speedup]
    accepted.sort(key=lambda program: -_speedup(records[program]))
    shown = accepted[:best] + [SEED] * (SEED in records and SEED not in accepted[:best])
    return "\n".join(lines + [f"  {describe(program, records[program])}" for program in shown])


def describe(program: Program, record: Evaluation) -> str:
    """A program with its outcome, and its speedup where it has one."""
    speed = record.speedup
    told = f"{speed.estimate:.2f} times the baseline's speed, 95 % interval {speed.low:.2f} to {speed.high:.2f}" if speed else record.reason
    return f"{name_of(program):32} {record.outcome.value:14} {told}"


def _speedup(record: Evaluation) -> float:
    return record.speedup.estimate if record.speedup else 0.0


def _program(name: str) -> Program:
    try:
        return parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> None:
    parser = argparse.ArgumentParser(description="A finite grammar of kernels for rms_norm on a CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    judge = commands.add_parser("judge", help="judge every program that the log does not hold yet")
    judge.add_argument("--out", type=Path, required=True, help="the log, .jsonl or .jsonl.xz")
    judge.add_argument("--judge", choices=("ours", "usual"), default="ours")
    judge.add_argument("--effort", choices=("quick", "full"), default="quick", help="of our judge")
    judge.add_argument("--judges", type=int, default=2, help="processes that judge, of our judge; 0: this one")
    judge.add_argument("--only", type=_program, nargs="+", default=[], metavar="PROGRAM", help="these programs, judged before or not")
    show = commands.add_parser("show", help="print the source of a program")
    show.add_argument("program", type=_program, help="such as 'simd|parallel|float|store'")
    against = commands.add_parser("compare", help="judge two programs in turn, many times")
    against.add_argument("programs", type=_program, nargs=2, metavar="PROGRAM")
    against.add_argument("--times", type=int, default=10, help="evaluations of each")
    against.add_argument("--effort", choices=("quick", "full"), default="quick")
    tables = commands.add_parser("table", help="outcomes by count, and the best programs")
    tables.add_argument("logs", nargs="*", type=Path, default=[LOG, USUAL_LOG])
    options = parser.parse_args()

    if options.command == "judge":
        import grammar_judging  # it brings the judge, and PyTorch with it

        grammar_judging.judge(options.out, options.only, options.judge == "usual", options.effort, options.judges)
    elif options.command == "compare":
        import grammar_judging

        print(grammar_judging.compare(*options.programs, options.times, options.effort))
    elif options.command == "show":
        print(source(options.program), end="")
    else:
        try:
            print("\n\n".join(f"{log.name}: {table(load(log))}" for log in options.logs))
        except LogError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
