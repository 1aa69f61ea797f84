"""Clocks from the management library, where there is one."""

from __future__ import annotations

from fastkernels_env.device import nvml


def test_a_device_that_does_not_answer_tells_nothing():
    assert nvml.clocks("GPU-00000000-0000-0000-0000-000000000000") == {}
