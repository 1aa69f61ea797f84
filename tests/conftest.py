"""What the engine's tests share: a host cache of their own, one CPU evaluator, and a third party's task that is quick to judge."""

from __future__ import annotations

import runpy
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fastkernels", deadline=None)  # the machine may be busy with something else
settings.load_profile("fastkernels")

TASK = '''
    """A row-wise product: small enough that judging it costs next to nothing."""

    import torch

    from fastkernels_env.task import Baseline, Cost, Input, Output, Scalar, Task, Weight


    class TinyScale(Task):
        """Scales every column."""

        entry = "tiny_scale"
        summary = "Multiply every column by its weight and everything by a factor."
        semantics = "out[t, h] = input[t, h] * weight[h] * factor."
        mirrors = "nothing.in_production"
        level = "L1"
        category = "test"
        architectures = ("none",)
        signature = (
            Output("out", "T", "H"),
            Input("input", "T", "H", row_stride="row_stride"),
            Weight("weight", "H"),
            Scalar("factor", "float"),
        )
        baselines = (Baseline(name="eager", file="eager.py"),)
        ragged = {"cpu": {"T": (1, 20)}}
        independent_rows = True

        def inputs(self, workload, draw):
            shape, dtype = (workload.sizes["T"], workload.sizes["H"]), getattr(torch, workload.dtype)
            return {"input": draw.activation(shape, dtype), "weight": draw.parameter(shape[1:], dtype), "factor": 1.5}

        def oracle(self, args):
            return {"out": args["input"].double() * args["weight"].double() * args["factor"]}

        def cost(self, workload, args):
            return Cost(bytes=8 << 20, flops=1)  # a claim, not the truth: it keeps the timing ring small


    TASK = TinyScale()
'''
WORKLOADS = """
    {"name": "whole", "device": "cpu", "dtype": "float32", "sizes": {"T": 16, "H": 64}, "count": 3, "source": "a test", "smoke": true}
    {"name": "strided", "device": "cpu", "dtype": "float32", "sizes": {"T": 16, "H": 64, "row_stride": 80}, "source": "a test"}
"""
EAGER = """
    import torch


    def tiny_scale(out, input, weight, factor):
        torch.mul(input, weight, out=out)
        out.mul_(factor)
"""
SEED = """
    #include <fastkernels.h>

    void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor) {
      const int64_t rows = input.size(0), width = input.size(1), stride = input.stride(0);
      const float *x = fk::data<float>(input), *w = fk::data<float>(weight);
      float* y = fk::data<float>(out);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t h = 0; h < width; ++h) y[t * width + h] = x[t * stride + h] * w[h] * float(factor);
    }
"""


def write_task(folder: Path, **changed: str) -> Path:
    """A task folder of this module's task. `changed` gives other texts for its files, by name without suffix."""
    files = {"task.py": TASK, "workloads.jsonl": WORKLOADS, "baselines/eager.py": EAGER, "seeds/cpu.cpp": SEED}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(changed.get(path.stem, text)).lstrip())
    return folder


def pytest_configure(config):
    sampling = runpy.run_path(str(Path(__file__).with_name("sampling.py")))
    config.pluginmanager.register(sampling["Sample"](), "sample")


@pytest.fixture(scope="session", autouse=True)
def host_cache(tmp_path_factory):
    """Measured rates and compiled baselines of this run alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTKERNELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def evaluator(host_cache):
    """A CPU evaluator that all tests share for which isolation is not the point."""
    from fastkernels_env import Evaluator

    with Evaluator("cpu", effort="quick") as shared:
        yield shared


@pytest.fixture(scope="session")
def task_files():
    """`write_task`, and the texts that it writes."""
    write_task.texts = {"task": TASK, "workloads": WORKLOADS, "eager": EAGER, "cpu": SEED}
    return write_task


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    write_task(root / "tiny_scale")
    return root


@pytest.fixture
def tiny(tiny_root, monkeypatch):
    """The quick task, found through FASTKERNELS_ENV_PATH."""
    from fastkernels_env.registry import load_task

    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tiny_root))
    return load_task("tiny_scale")


@pytest.fixture
def wide_task(tmp_path, task_files):
    """A task of more ranks than any host here has cores."""
    text = task_files.texts["task"]
    for find, replacement in (
        ("Task, Weight\n", f"Task, Weight\n{' ' * 4}from fastkernels_env.ranked import Comm, RankedTask as Many\n"),
        ("class TinyScale(Task):", "class TinyScale(Many):"), ('entry = "tiny_scale"', 'entry = "tiny_scale"\n        ranks = 1000'),
        ('Scalar("factor", "float"),', 'Scalar("factor", "float"), Comm(),'),
    ):
        assert text.count(find) == 1, find
        text = text.replace(find, replacement)
    folder = task_files(tmp_path / "wide_scale", task=text)
    from fastkernels_env.registry import _registered, register_task

    register_task(folder)
    yield "wide_scale"
    del _registered["wide_scale"]
