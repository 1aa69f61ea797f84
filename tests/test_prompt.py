"""What a prompt says, and that its worked examples work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import tvm_ffi

from fastkernels_env.build import Build
from fastkernels_env.ops import program_source
from fastkernels_env.prompt import EXAMPLES, build_prompt, prompt_hash
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.submission import extract
from fastkernels_env.task import Baseline, Cost, Input, Output, Scalar, Task
from fastkernels_env.types import Language

PAIRS = [(name, device) for name in task_folders() for device in ("cpu", "cuda")]
class Scale(Task):
    """The made-up task of the examples."""

    entry = "scale"
    summary = "Multiply by a number."
    semantics = "out = input * factor."
    mirrors = "torch.mul"
    signature = (Output("out", "N"), Input("input", "N"), Scalar("factor", "float"))
    baselines = (Baseline(name="eager", file="eager.py"),)
    ragged: ClassVar = {"cpu": {"N": (1, 9)}, "cuda": {"N": (1, 9)}}
    batch = "N"

    def inputs(self, workload, draw):
        return {"input": draw.normal((workload.sizes["N"],), torch.float32), "factor": 1.5}

    def oracle(self, args):
        return {"out": args["input"].double() * args["factor"]}

    def cost(self, workload, args):
        return Cost(bytes=8 * workload.sizes["N"], flops=workload.sizes["N"])


@pytest.fixture
def scale(tmp_path):
    task = Scale()
    task.folder = tmp_path
    lines = [f'{{"name": "{d}", "device": "{d}", "dtype": "float32", "sizes": {{"N": 7}}}}' for d in ("cpu", "cuda")]
    (tmp_path / "workloads.jsonl").write_text("\n".join(lines))
    return task


@pytest.mark.parametrize(("name", "device"), PAIRS)
def test_a_prompt_states_the_task(name, device):
    task = load_task(name)
    prompt = build_prompt(task, device, "Model X")
    for said in (task.summary, task.semantics, task.mirrors, "(Model X)"):
        assert said in prompt
    for arg in task.entry_signature:
        assert f"| `{arg.name}` |" in prompt
    for workload in task.workloads(device):
        assert f"| {workload.name} | {workload.dtype} |" in prompt
        assert workload.source in prompt
        assert all(f"{size} = {value}" in prompt for size, value in workload.sizes.items())
    for baseline in task.baselines:
        assert (f"`{baseline.name}`" in prompt) == (device in baseline.devices)
    for size, (low, high) in task.ragged[device].items():
        assert f"{size} from {low:,} to {high:,}" in prompt


@pytest.mark.parametrize(("name", "device"), PAIRS)
def test_both_signatures_of_a_prompt_are_the_ones_that_are_accepted(name, device):
    task = load_task(name)
    prompt = build_prompt(task, device)
    python = re.search(rf"```python\n(def {task.entry}\(.*\):)\n```", prompt)
    native = re.search(rf"```(cpp|cuda)\n(void {task.entry}\(.*\));\n```", prompt)
    names = tuple(arg.name for arg in task.entry_signature)
    assert extract(f"```python\n{python[1]}\n    pass\n```", task, device).arguments == names
    assert extract(f"```{native[1]}\n{native[2]} {{}}\n```", task, device).arguments == names


@pytest.mark.parametrize(("name", "device"), PAIRS)
def test_the_only_code_in_a_prompt_is_the_signatures_and_the_made_up_examples(name, device):
    task = load_task(name)
    blocks = re.findall(r"^```\w+\n(.*?)^```$", build_prompt(task, device), re.DOTALL | re.MULTILINE)
    signatures = [block for block in blocks if block not in EXAMPLES.values()]
    assert len(blocks) - len(signatures) == 2
    if task.ops:
        assert signatures.pop() == program_source(task)
    names = [task.entry, *(op.name for op in task.ops)]
    assert len(signatures) == 2 * len(names)
    for block, name in zip(signatures, [name for name in names for _ in range(2)], strict=True):
        assert block.count("\n") == 1
        assert f" {name}(" in block


def test_tolerances_are_given_as_numbers():
    prompt = build_prompt(load_task("rms_norm"), "cpu")
    assert "`out` in float32: |result - reference| <= 1e-05 + 0.001 * |reference|" in prompt
    assert "`out` in bfloat16: |result - reference| <= 0.01 + 0.01 * |reference|" in prompt
    assert "At least 99% of the elements" in prompt


def test_a_strided_argument_is_announced():
    assert "| `input` | input: read only | [T, H] | float32 or bfloat16 | rows may be row_stride elements apart" in build_prompt(
        load_task("rms_norm"), "cpu"
    )


def test_rules_of_the_device():
    cpu, cuda = (build_prompt(load_task("rms_norm"), device) for device in ("cpu", "cuda"))
    for said in ("CUDA graph", "TVMFFIEnvGetStream", "nvcc", "sm_90a"):
        assert said in cuda
        assert said not in cpu
    for said in ("fk::dispatch", "-march=native", "-fopenmp", "Triton is checked here, but not timed"):
        assert said in cpu
        assert said not in cuda


def test_the_hash_tells_prompts_apart():
    hashes = {prompt_hash(build_prompt(load_task("rms_norm"), device)) for device in ("cpu", "cuda", "cpu")}
    assert len(hashes) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in hashes)


@pytest.mark.parametrize("language", EXAMPLES)
def test_examples_are_submissions(scale, language):
    device = "cuda" if language is Language.CUDA else "cpu"
    submission = extract(f"```{language.value}\n{EXAMPLES[language]}```", scale, device)
    assert submission.language is language
    assert submission.code == EXAMPLES[language]
    assert submission.kernels == (() if language is Language.CPP else ("scale_kernel",))
    assert f"{EXAMPLES[language]}```" in build_prompt(scale, device)


def test_the_cpp_example_works(scale):
    with Build(extract(f"```cpp\n{EXAMPLES[Language.CPP]}```", scale, "cpu")) as build:
        module = tvm_ffi.load_module(build.result().path)
        for dtype in (torch.float32, torch.bfloat16):
            value = torch.randn(5, 33).to(dtype)
            out = torch.full_like(value, float("nan"))
            module.scale(out, value, 1.5)
            assert torch.equal(out, (value.float() * 1.5).to(dtype))


@pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc to compile the example with")
def test_the_cuda_example_compiles(scale):
    with Build(extract(f"```cuda\n{EXAMPLES[Language.CUDA]}```", scale, "cuda"), link=False) as build:
        assert Path(build.result().path).exists()


def test_the_triton_example_works(tmp_path):
    (tmp_path / "example.py").write_text(EXAMPLES[Language.PYTHON])
    code = (
        "import torch, example\n"
        "value = torch.randn(5, 333)\n"
        "out = torch.full_like(value, float('nan'))\n"
        "example.scale(out, value, 1.5)\n"
        "assert torch.equal(out, value * 1.5)\n"
        "example.scale(out[:0], value[:0], 1.5)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
