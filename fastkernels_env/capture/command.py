"""The command ``fastkernels-env capture``. Whatever needs torch is imported inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._terminal import ACCEPTED, NAME, OTHER, Problem, display, make_table, tell

if TYPE_CHECKING:
    from ..statements import Workload
    from .facts import Facts
    from .observation import Observation
    from .ops import Layout
    from .rows import Origin
    from .situations import Situation

_DTYPES = ("bfloat16", "float16", "float32")


def capture(
    model: Annotated[str, typer.Argument(help="A known model, a config.json or its folder, or a script.", metavar="MODEL_OR_SCRIPT")],
    out: Annotated[Path, typer.Option(help="JSONL file of rows to write.")],
    workload: Annotated[str, typer.Option(help="Traffic: a known name, or a TOML file with your own.", metavar="NAME|FILE")] = "chat",
    device: Annotated[str, typer.Option(help="Device that the rows are for: cpu or cuda.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="Dtype of weights and activations.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs of tensor parallelism; shapes are those of one.")] = 1,
    sequence: Annotated[bool, typer.Option(help="With --ranks 2: sequence parallelism.")] = False,
    experts: Annotated[int, typer.Option(min=1, help="GPUs of expert parallelism; tokens are those of one.")] = 1,
    real: Annotated[bool, typer.Option("--real", help="Real tensors on the CPU: weights of the folder, else random ones.")] = False,
    tokens: Annotated[int, typer.Option(min=1, help="With --real: tokens to generate for each request.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="With --real: requests of the batch.")] = 8,
    each: Annotated[int, typer.Option(min=1, help="Sizes of one op.")] = 4,
    most: Annotated[int, typer.Option(min=1, help="Rows of one task.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 0,
    observations: Annotated[Path | None, typer.Option(help="JSONL file for all that was seen, with statistics of values.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of the script.", metavar="[ARGUMENT]...")] = None,
) -> int:
    """Record the ops that tasks mirror while a model runs, and write them as rows to judge against (evaluate --workloads)."""
    if dtype not in _DTYPES:
        raise Problem(f"expected --dtype to be one of {', '.join(_DTYPES)}, got {dtype!r}")
    if device not in ("cpu", "cuda"):
        raise Problem(f"expected --device to be cpu or cuda, got {device!r}")
    from .facts import FactsError
    from .models import ModelsMissing
    from .ops import Layout
    from .script import ScriptError
    from .traffic import TrafficError

    layout = Layout(ranks, sequence, experts)
    try:
        if model.endswith(".py"):
            made, seen = _script(Path(model), arguments or [], device, layout, each, most)
        elif arguments:
            raise Problem(f"{model} is no script (.py), so it takes no arguments; got {' '.join(arguments)}")
        elif real:
            made, seen = _real(model, workload, device, dtype, tokens, batch, seed, each, most)
        else:
            made, seen = _model(model, workload, device, dtype, layout, seed, each, most)
    except (FactsError, TrafficError, ModelsMissing, ScriptError) as error:
        raise Problem(str(error)) from error
    return _write(made, seen, out, observations)


Captured = tuple["list[Workload]", "list[Observation]"]


def _model(
    name: str, workload: str, device: str, dtype: str, layout: Layout, seed: int, each: int, most: int
) -> Captured:
    from . import facts, situations
    from .models import record
    from .rows import join, rows

    model = facts.load(name)
    made: list[list[Workload]] = []
    seen: list[Observation] = []
    for situation, about in situations.load(workload).items():
        observed = record(model.sharded(layout.tensor), about.batches(seed, each), dtype)
        made.append(rows(observed, _origin(model, situation, about, device, layout), layout, each, most))
        seen += observed
    return join(made), seen


def _origin(model: Facts, name: str, situation: Situation, device: str, layout: Layout) -> Origin:
    from .rows import Origin

    spread = f" on {layout.tensor} GPUs" if layout.tensor > 1 else f" on {layout.experts} GPUs" if layout.experts > 1 else ""
    return Origin(model=model.name, revision=model.revision, workload=name, summary=situation.summary + spread, device=device)


def _real(
    name: str, workload: str, device: str, dtype: str, tokens: int, batch: int, seed: int, each: int, most: int
) -> Captured:
    import random

    import torch

    from . import facts, situations
    from .models import build, load_weights, record_real
    from .rows import Origin, rows

    model = facts.load(name)
    (label, situation), *rest = situations.load(workload).items()
    lengths = situation.prompt or situation.context
    if rest or lengths is None:
        raise Problem(f"--real runs one batch of requests: name one workload with lengths of prompts or contexts, not {workload}")
    torch.manual_seed(seed)
    folder = Path(name)
    network = load_weights(folder, dtype) if any(folder.glob("*.safetensors")) else build(model, dtype, "cpu")
    prompts = lengths.draw(random.Random(seed), batch)
    observed = record_real(network, prompts, tokens, int(model.config.get("vocab_size", 1000)), seed)
    summary = f"{batch} prompts of {min(prompts):,} to {max(prompts):,} tokens, {tokens} tokens out, real tensors"
    origin = Origin(model=model.name, revision=model.revision, workload=label, summary=summary, device=device)
    return rows(observed, origin, None, each, most), observed


def _script(path: Path, arguments: Sequence[str], device: str, layout: Layout, each: int, most: int) -> Captured:
    from .rows import Origin, rows
    from .script import record_script

    observed = record_script(path, arguments)
    origin = Origin(model=path.stem, revision="as the script makes it", workload=" ".join([path.name, *arguments]),
                    summary="as the script runs it", device=device)
    return rows(observed, origin, layout, each, most), observed


def _write(made: Sequence[Workload], seen: Sequence[Observation], out: Path, observations: Path | None) -> int:
    from .rows import encode, encode_observation

    try:
        if observations is not None:
            observations.write_text("".join(f"{encode_observation(observation)}\n" for observation in seen))
        out.write_text("".join(f"{encode(row)}\n" for row in made))
    except OSError as error:
        raise Problem(f"{error.filename} cannot be written ({error.strerror}); name another file") from error
    if not made:
        tell(f"{NAME}: {len(seen)} ops were seen, none that a task mirrors; --observations FILE lists them")
        return OTHER
    header = ("task", "name", "dtype", "sizes", "calls")
    display(make_table(header, [
        (row.task, row.name, row.dtype, json.dumps(row.sizes).strip("{}").replace('"', ""), f"{row.count:,}") for row in made
    ]))
    tell(f"{NAME}: wrote {out}: {len(made)} rows; judge against them: {NAME} evaluate TASK FILE --workloads {out}")
    return ACCEPTED
