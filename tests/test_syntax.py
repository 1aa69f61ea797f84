"""Python's parser in several threads."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastkernels_env
from fastkernels_env._syntax import parse_expression, parse_module

SOURCE = (Path(fastkernels_env.__file__).parent / "task.py").read_text()


@pytest.fixture
def disturbed():
    """Let threads take turns in the middle of parsing, as any finaliser may: with `ast.parse` itself some calls then raise SystemError."""

    def give_way(phase, info):
        time.sleep(0)

    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(give_way)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*thresholds)


def test_threads_may_parse_at_once(disturbed):
    end = time.monotonic() + 2.0

    def work(_):
        count = 0
        while time.monotonic() < end:
            assert parse_module(SOURCE).body
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 0


def test_what_is_no_python_raises():
    with pytest.raises(SyntaxError):
        parse_module("def")
    with pytest.raises(SyntaxError):
        parse_expression("1 +")
