"""What is installed, what is pinned, and the environment that the Makefile builds."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"fastkernels_env": "fastkernels_env", "envs": "fastkernels_env/envs", "reward": "fastkernels_env/reward"}
SHIPPED = {".py", ".typed", ".h", ".cpp", ".cu", ".toml", ".jsonl"}
TASKS = sorted(path.parent.name for path in (ROOT / "envs").glob("*/task.py"))
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
    "-m venv"*) [ ! -e no-venv ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) [ ! -e no-network ] ;;
esac
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network from a copy of the sources, so that nothing left in the checkout gets into it."""
    # By their metadata: importing setuptools would replace this process's distutils.
    tools = {tool.name: tool.version for tool in metadata.distributions() if tool.name in ("pip", "setuptools")}
    if len(tools) < 2 or int(tools["setuptools"].split(".")[0]) < 77:
        pytest.skip(f"building the wheel needs pip and setuptools 77 or newer, installed are {tools}")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", target]
    built = subprocess.run([*command, source], capture_output=True, text=True, cwd=target)
    assert built.returncode == 0, built.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_one_top_level_package(contents):
    top = {name.split("/")[0] for name in contents}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fastkernels_env"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_wheel_holds_every_source_file(contents, folder):
    files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.suffix in SHIPPED]
    assert files
    assert [str(file) for file in files if f"{FOLDERS[folder]}/{file}" not in contents] == []


def test_wheel_holds_data_and_licence(contents):
    assert {"fastkernels_env/py.typed", "fastkernels_env/include/fastkernels.h"} <= contents
    assert "fastkernels_env/reward/presets/production.toml" in contents
    assert any(re.fullmatch(r"fastkernels_env-[^/]+\.dist-info/licenses/LICENSE", name) for name in contents)
    assert [name for name in contents if "__pycache__" in name or name.endswith((".pyc", ".so"))] == []


@pytest.mark.parametrize("task", TASKS)
def test_wheel_holds_each_part_of_a_task(contents, task):
    folder = f"fastkernels_env/envs/{task}"
    assert {f"{folder}/task.py", f"{folder}/workloads.jsonl", f"{folder}/mutants.toml"} <= contents
    for part in ("seeds", "baselines"):
        assert any(name.startswith(f"{folder}/{part}/") for name in contents)


def test_console_script_leads_to_a_module_of_the_wheel(wheel, contents):
    name = next(name for name in contents if name.endswith(".dist-info/entry_points.txt"))
    scripts = configparser.ConfigParser()
    scripts.read_string(zipfile.ZipFile(wheel).read(name).decode())
    module, _, function = scripts["console_scripts"]["fastkernels-env"].partition(":")
    assert f"{module.replace('.', '/')}.py" in contents
    assert function == "main"


def test_tasks_load_from_the_wheel_alone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "from fastkernels_env.registry import load_task, task_folders\n"
        "for name, folder in task_folders().items(): print(name, load_task(name).folder)\n"
        "import fastkernels_env.reward"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "FASTKERNELS_ENV_PATH": ""}
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/", env=environment)
    assert loaded.returncode == 0, loaded.stderr
    folders = dict(line.split(" ", 1) for line in loaded.stdout.splitlines())
    assert sorted(folders) == TASKS
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders.values())


def pins():
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def test_every_direct_requirement_is_pinned():
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = requirements.Requirement(text)
        assert requirement.name in pins(), f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pins()[requirement.name]), f"constraints.txt and pyproject.toml disagree on {text}"


def test_pinned_triton_is_the_one_that_the_pinned_torch_requires():
    installed = metadata.version("torch").split("+")[0]
    own = [text.split(";")[0] for text in metadata.requires("torch") or [] if re.match(r"triton\s*==", text)]
    if installed != pins()["torch"] or not own:
        pytest.skip(f"torch {installed} here is not the pinned CUDA build, so it requires no triton to compare with")
    assert own == [f"triton=={pins()['triton']}"]


def make(folder, *arguments):
    """Run make in `folder`, free of what an outer make hands down."""
    hidden = ("PYTHON", "BASE_PYTHON", "ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "PYTHONSAFEPATH")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose interpreter only writes down how it was called."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    python = tmp_path / "fake-python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def calls(checkout):
    lines = (checkout / "calls").read_text().splitlines()
    (checkout / "calls").unlink()
    return lines


def test_help_is_the_default_and_lists_every_target(checkout):
    targets = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)[1].split()
    listed = re.findall(r"^  make (\S+)", make(checkout).stdout, re.MULTILINE)
    assert sorted(listed) == sorted(set(targets) - {"tree"})


def test_environment_builds_itself_once(checkout):
    assert make(checkout, "test", "BASE_PYTHON=./fake-python").returncode == 0
    first = calls(checkout)
    assert "-m venv --clear .venv" in first
    assert any(line.startswith("-m pip install") and "-c constraints.txt -e .[dev]" in line for line in first)
    assert first[-1].startswith("-m pytest")
    assert make(checkout, "demo", "BASE_PYTHON=./fake-python").returncode == 0
    assert calls(checkout) == ["-m fastkernels_env demo"]
    os.utime(checkout / "constraints.txt", (2e9, 2e9))
    assert make(checkout, "lint", "BASE_PYTHON=./fake-python").returncode == 0
    assert any(line.startswith("-m pip install") for line in calls(checkout))


@pytest.mark.parametrize("broken", ["no-venv", "no-network"])
def test_failed_installation_leaves_no_stamp_and_is_repeated(checkout, broken):
    (checkout / broken).touch()
    failed = make(checkout, "test", "BASE_PYTHON=./fake-python")
    assert failed.returncode != 0
    assert not (checkout / ".venv" / ".stamp").exists()
    assert not any(line.startswith("-m pytest") for line in calls(checkout))
    if broken == "no-venv":
        assert "python3-venv" in failed.stderr
    (checkout / broken).unlink()
    assert make(checkout, "test", "BASE_PYTHON=./fake-python").returncode == 0
    assert (checkout / ".venv" / ".stamp").exists()


@pytest.mark.parametrize("target", ["demo", "test", "test-gpu", "lint", "docs"])
def test_given_interpreter_is_used_as_it_is(checkout, target):
    assert make(checkout, target, "PYTHON=./fake-python").returncode == 0
    assert len(calls(checkout)) == 1
    assert not (checkout / ".venv").exists()
    tree = checkout / "build" / "tree" / "fastkernels_env"
    assert (tree / "envs").resolve() == checkout / "envs"
    assert (tree / "reward").resolve() == checkout / "reward"
