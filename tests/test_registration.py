"""Gymnasium ids, specs and what an import costs."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

import fastkernels_env
from fastkernels_env.registration import env_id, register_envs
from fastkernels_env.registry import task_folders

IDS = [env_id(task) for task in task_folders()]


def python(code, **environment):
    """Standard output of a program in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_task_has_an_id():
    assert "FastKernels/rms_norm-v0" in IDS
    assert set(IDS) <= set(gymnasium.registry)


@pytest.mark.parametrize("name", IDS)
def test_specs(name):
    spec = gymnasium.spec(name)
    assert spec.nondeterministic
    assert spec.max_episode_steps is None
    assert spec.entry_point == "fastkernels_env.env:KernelEnv"
    assert spec.vector_entry_point == "fastkernels_env.vector:KernelVectorEnv"
    assert spec.namespace == "FastKernels"


@pytest.mark.parametrize("name", IDS)
def test_specs_survive_pickle_and_json(name):
    spec = gymnasium.spec(name)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert EnvSpec.from_json(spec.to_json()) == spec


def test_a_made_environments_spec_makes_it_again():
    env = gymnasium.make("FastKernels/rms_norm-v0", device="cpu", max_turns=3, reward="production", effort="quick")
    for spec in (env.spec, pickle.loads(pickle.dumps(env.spec)), EnvSpec.from_json(env.spec.to_json())):
        again = gymnasium.make(spec)
        assert again.unwrapped.max_turns == 3
        assert again.unwrapped.effort == "quick"
        assert again.unwrapped.task is env.unwrapped.task
        again.close()
    env.close()


def test_registering_again_changes_nothing_and_does_not_warn():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert gymnasium.registry == before


def test_importing_registers_and_imports_nothing_heavy():
    out = python(
        "import sys, fastkernels_env, gymnasium\n"
        "assert 'FastKernels/rms_norm-v0' in gymnasium.registry\n"
        "heavy = {'torch', 'triton', 'ray', 'rich', 'tvm_ffi', 'fastkernels_env.env'}\n"
        "print(sorted(heavy & set(sys.modules)), [name for name in sys.modules if name.startswith('fastkernels_env.envs.')])"
    )
    assert out.strip() == "[] []"


def test_the_colon_form_imports_first():
    out = python(
        "import gymnasium\n"
        "env = gymnasium.make('fastkernels_env:FastKernels/rms_norm-v0', device='cpu')\n"
        "print(env.spec.id, env.unwrapped.task.entry)"
    )
    assert out.split() == ["FastKernels/rms_norm-v0", "rms_norm"]


def test_a_constructor_starts_no_process_and_touches_no_cuda():
    out = python(
        "import os, gymnasium, fastkernels_env\n"
        "env = gymnasium.make('FastKernels/rms_norm-v0', device='cpu')\n"
        "env.reset(seed=0)\n"
        "import torch\n"
        "children = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "print(torch.cuda.is_initialized(), children)"
    )
    assert out.strip() == "False []"


def test_tasks_of_a_search_path(tmp_path):
    source = task_folders()["rms_norm"]
    copy = tmp_path / "my_norm"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    task = copy / "task.py"
    task.write_text(task.read_text().replace("from ...", "from fastkernels_env."))
    out = python(
        "import gymnasium, fastkernels_env\n"
        "env = gymnasium.make('FastKernels/my_norm-v0', device='cpu')\n"
        "print(env.unwrapped.task.folder)",
        FASTKERNELS_ENV_PATH=str(tmp_path),
    )
    assert Path(out.strip()) == copy


def test_a_folder_that_cannot_be_an_id_is_left_out(tmp_path):
    folder = tmp_path / "not an id"
    folder.mkdir()
    (folder / "task.py").write_text("")
    out = python(
        "import warnings, gymnasium\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    import fastkernels_env\n"
        "print(len(caught), caught[0].message, 'FastKernels/rms_norm-v0' in gymnasium.registry)",
        FASTKERNELS_ENV_PATH=str(tmp_path),
    )
    assert out.startswith("1 the task 'not an id' gets no Gymnasium id, rename its folder")
    assert out.strip().endswith("True")


def test_public_names():
    for name in fastkernels_env.__all__:
        assert getattr(fastkernels_env, name) is not None
    assert set(fastkernels_env.__all__) <= set(dir(fastkernels_env))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fastkernels_env.nonsense  # noqa: B018


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert fastkernels_env.__version__ == version("fastkernels-env")
