"""Feedback for the next turn: what failed, the numbers, where the time went. Never the hidden values themselves."""

from __future__ import annotations

from .types import Check, Evaluation, Outcome, Status, Timing

_BUILD_CHARS = 2500
_OUTPUT_CHARS = 1500


def write_feedback(evaluation: Evaluation, output: str = "") -> str:
    """Text for a language model that wants to do better.

    Args:
        evaluation: The finished record.
        output: The end of what the submission's process printed, or its traceback.
    """
    lines = [f"Outcome: {evaluation.outcome.value}. {_capitalised(evaluation.reason)}"]
    if evaluation.outcome is Outcome.BUILD_FAILED and evaluation.build_log:
        lines += ["Compiler output around the first error:", evaluation.build_log[:_BUILD_CHARS]]
    if evaluation.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT) and output.strip():
        lines += ["End of the process's output:", output.strip()[-_OUTPUT_CHARS:]]
    lines += [f"- {check.name}: {check.detail}" for check in _other_failures(evaluation)]
    if evaluation.timings:
        lines += _timing_lines(evaluation)
    if evaluation.resources:
        figures = ", ".join(f"{name} {value:g}" for name, value in sorted(evaluation.resources.items()))
        lines.append(f"Compiled kernels: {figures}.")
    return "\n".join(lines)


def _other_failures(evaluation: Evaluation) -> list[Check]:
    """Failed checks whose detail the reason does not already give."""
    failed = [check for check in evaluation.checks if check.status is Status.FAILED]
    return [check for check in failed if check.detail and check.detail not in evaluation.reason]


def _timing_lines(evaluation: Evaluation) -> list[str]:
    lines = []
    if evaluation.speedup is not None:
        s = evaluation.speedup
        verdict = "faster than" if s.low > 1 else "slower than" if s.high < 1 else "at parity with"
        lines.append(
            f"Speed: {s.estimate:.3f}x the best baseline (95 % interval {s.low:.3f} to {s.high:.3f}): {verdict} production. "
            f"Worst workload: {s.worst_workload} at {s.worst:.3f}x."
        )
    lines.append("Time per call:")
    lines += [_timing_line(timing) for timing in evaluation.timings]
    if evaluation.own_kernel_share is not None:
        lines.append(f"Share of device time in your own kernels: {evaluation.own_kernel_share:.0%}.")
    return lines


def _timing_line(timing: Timing) -> str:
    baselines = ", ".join(f"{name} {us:.4g} us" for name, us in sorted(timing.baselines.items(), key=lambda item: item[1]))
    light = f"; {timing.speed_of_light:.0%} of the speed of light" if timing.speed_of_light is not None else ""
    mode = f"; {timing.mode}" if timing.mode.startswith("eager:") else ""
    return f"- {timing.workload} (weight {timing.count}): {timing.candidate_us:.4g} us; {baselines}{light}{mode}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
