"""All architectures, one after the other, each in a process of its own with a time limit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

import msgspec

from .architectures import Architecture
from .categories import category_of
from .measured import Measured
from .worker import serve

LIMIT_S = 60.0
"""How long an architecture may take."""


def walk(
    architectures: Sequence[Architecture], limit_s: float = LIMIT_S, progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Measured]:
    """Measure architectures.

    Args:
        architectures: Which ones.
        limit_s: Seconds that one may take.
        progress: Told what is being done.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    for number, architecture in enumerate(architectures, 1):
        progress(f"{number} of {len(architectures)}: {architecture.name}")
        yield _measured(context, architecture, limit_s)


def _measured(context: multiprocessing.context.ForkServerContext, architecture: Architecture, limit_s: float) -> Measured:
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(architecture, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not mine.poll(limit_s):
            return _failed(architecture, f"it took longer than {limit_s:.0f} s")
        return msgspec.json.decode(mine.recv_bytes(), type=Measured)
    except EOFError:
        process.join(1)
        return _failed(architecture, f"its process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
        mine.close()


def _failed(architecture: Architecture, problem: str) -> Measured:
    category = category_of(architecture.name, architecture.model_type, set(), image_net=False)
    return Measured(
        transformers=metadata.version("transformers"), name=architecture.name, model_type=architecture.model_type, category=category,
        problem=problem,
    )
