"""The checks of the integrate gate that run a call the way a stack does: each says what is wrong, or returns an empty string."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import StepFailed
from .rig import FIRST, OTHER, PAIRS, RESULT, SECOND, STEP_SECONDS, Rig

_PROGRAM_SECONDS = 120.0
"""What it may take to compile a whole program around a submission's ops."""
_TRACE_SECONDS = 8.0
"""What a trace may take. It is advice, and sizes that become symbols can keep Dynamo busy without end."""


def check_schema(rig: Rig) -> str:
    """`op_schema`: registered as the task declares it, called through the dispatcher, under torch's check of schemas."""
    if rig.unregistered:
        return f"the entry cannot be registered: {rig.unregistered}"
    for index in (FIRST,) if rig.scope.interpreted else (OTHER, FIRST):
        rig.write(index)
        reported: StepFailed | None = None
        try:
            rig.step("schema", index, seconds=rig.scope.call_seconds)
        except StepFailed as error:
            reported = error
        if name := rig.modified(index):
            return f"the argument {name!r}, which the schema declares read-only, was modified"
        if reported is not None:
            raise reported
        if wrong := rig.wrong(index):
            return f"called as an operator it gave a wrong answer: {wrong}"
    return ""


def check_opaque(rig: Rig) -> str:
    """`opaque_graph`: the operator inside ``torch.compile(fullgraph=True, dynamic=True)``, on two sizes.

    Of a program: its ops as operators inside of it, compiled for one size.
    """
    if rig.unregistered:
        return f"the entry cannot be registered: {rig.unregistered}"
    what = "inside a compiled graph it gave a wrong answer"
    if rig.artifact.ops:
        return _on_sizes(rig, "opaque", what, (FIRST,), _PROGRAM_SECONDS)
    return _on_sizes(rig, "opaque", what)


def check_inline(rig: Rig) -> str:
    """`inline_trace`: Dynamo traces through the entry, without a break, on two sizes."""
    return _on_sizes(rig, "inline", "traced by Dynamo it gave a wrong answer", seconds=_TRACE_SECONDS)


def _on_sizes(rig: Rig, way: str, what: str, calls: Sequence[int] = (FIRST, OTHER), seconds: float = STEP_SECONDS) -> str:
    rig.write(*calls)
    rig.step(way, *calls, seconds=seconds)
    for index in calls:
        if wrong := rig.wrong(index):
            return f"{what}: {wrong}"
    return ""


def check_graph(rig: Rig) -> str:
    """`cuda_graph`: captured once, replayed on other data in the same buffers."""
    rig.write(FIRST)
    rig.step("capture", FIRST)
    for case in (rig.cases[SECOND], rig.cases[FIRST]):
        rig.put(FIRST, case)
        rig.step("replay")
        if wrong := rig.wrong(FIRST, case):
            return f"a replay on new data gave a wrong answer: {wrong}"
    return ""


def check_side_stream(rig: Rig) -> str:
    """`side_stream`: between a late producer and a consumer on one stream that is not the default one."""
    case = rig.cases[SECOND]
    rig.put(FIRST, case, late=True)
    rig.write(SECOND, RESULT)
    rig.step("side_stream", FIRST, SECOND, RESULT)
    if wrong := rig.wrong(RESULT, case):
        return f"on a side stream it did not wait for its inputs, or its consumer did not wait for it: {wrong}"
    return ""


def check_concurrent(rig: Rig) -> str:
    """`concurrent_streams`: two streams at once, on different inputs."""
    rig.write(*PAIRS)
    rig.step("concurrent", *PAIRS)
    for index in PAIRS:
        if wrong := rig.wrong(index):
            return f"beside a call on another stream it gave a wrong answer: {wrong}"
    return ""


def check_second_device(rig: Rig) -> str:
    """`second_device`: tensors on device 1 while device 0 is current."""
    rig.write(FIRST, RESULT)
    rig.step("second_device", FIRST, RESULT)
    if wrong := rig.wrong(RESULT, rig.cases[FIRST]):
        return f"on a device that is not current it gave a wrong answer: {wrong}"
    return ""
