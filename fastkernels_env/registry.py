"""One registry for every task, ours and a third party's.

Tasks are folders: those of the package (``fastkernels_env/envs``), those below the directories in ``FASTKERNELS_ENV_PATH``, and
those handed to `register_task`. Listing names imports nothing; a task's code is imported when the task is first used.

A name may confine a task to some of its public workloads: ``rms_norm[cpu-decode-16]``, several divided by commas. The prompt shows and
the judge times these alone, and hidden workloads never have the shape of one that was left out. ``rms_norm[@rows.jsonl]`` has the
workloads of a file in place of the public ones; see `with_workloads`.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ._given import MARK, name_given, read_given
from ._syntax import parse_module
from .ops import Op, check_program
from .task import Arg, Input, Task, TaskError

_PACKAGE = f"{__package__}.envs"
_USER_PACKAGE = "fastkernels_user_tasks"
_registered: dict[str, Path] = {}
_loaded: dict[Path, Task] = {}
_confined: dict[tuple[Path, tuple[str, ...]], Task] = {}


def task_folders() -> dict[str, Path]:
    """Folder of every known task, by name, sorted."""
    found = {path.parent.name: path.parent for root in _roots() for path in root.glob("*/task.py")}
    return dict(sorted((found | _registered).items()))


def _roots() -> list[Path]:
    return [_builtin_root(), *(Path(p) for p in os.environ.get("FASTKERNELS_ENV_PATH", "").split(os.pathsep) if p)]


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """A task's own name and the workloads to which it is confined: ``("rms_norm", ("cpu-decode-16",))``; no workloads: all of them."""
    own, bracket, names = name.removesuffix("]").partition("[")
    if not bracket or not name.endswith("]"):
        return name, ()
    if names.startswith(MARK):
        return own, (names,)  # a path, whatever is in it
    return own, tuple(part.strip() for part in names.split(","))


def _find(name: str) -> Path | None:
    """As `task_folders` has it; needs no file descriptor, which may be what a host has run out of."""
    if name in _registered or name != Path(name).name:
        return _registered.get(name)
    return next((root / name for root in reversed(_roots()) if (root / name / "task.py").is_file()), None)


def is_builtin(folder: Path) -> bool:
    """Whether a task is one of the library's own."""
    return folder.resolve().parent == _builtin_root().resolve()


def register_task(folder: str | os.PathLike[str]) -> str:
    """Add a task folder and its Gymnasium id.

    Args:
        folder: A folder that holds ``task.py``.

    Returns:
        The task's name, which is the folder's.

    Raises:
        TaskError: There is no ``task.py`` in it, or it defines no valid task.
    """
    path = Path(folder).resolve()
    if not (path / "task.py").is_file():
        raise TaskError(f"expected a task folder with a task.py, found none in {path}")
    before = _registered.get(path.name)
    _registered[path.name] = path
    try:
        load_task(path.name)
    except TaskError:
        if before is None:
            del _registered[path.name]
        else:
            _registered[path.name] = before
        raise
    from .registration import register_envs

    register_envs()
    return path.name


def with_workloads(task: str, file: str | os.PathLike[str]) -> str:
    """The name of a task that is judged on the workloads of a file in place of its public ones.

    Any evaluator or environment of this host takes it for a task's name.

    Args:
        task: Name of a whole task.
        file: JSONL as ``fastkernels-env capture`` writes it. Rows that name another task are passed over.

    Raises:
        TaskError: There is no such task, the file cannot be read, or a row does not fit the task.
    """
    return load_task(name_given(task, os.fspath(file))).name


def load_task(name: str) -> Task:
    """The task of that name, which may be confined to some of its workloads, or have those of a file.

    Raises:
        TaskError: No such task or workload, or its ``task.py`` cannot be used; the message says which and why.
    """
    own, only = split_name(name)
    found = _find(own)
    if found is None:
        raise TaskError(f"unknown task {own!r}; known are: {', '.join(task_folders())}")
    folder = found.resolve()
    if folder not in _loaded:
        _loaded[folder] = _import(folder)
    if only and only[0].startswith(MARK):
        return _give(_loaded[folder], only[0])
    return _confine(_loaded[folder], only) if only else _loaded[folder]


def _confine(task: Task, only: tuple[str, ...]) -> Task:
    known = [workload.name for device in ("cpu", "cuda") for workload in task.workloads(device)]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise TaskError(f"task {task.name!r} has no public workload {unknown[0]!r}; known are: {', '.join(known)}")
    only = tuple(name for name in known if name in only)  # one order, so that a set of workloads has one name
    if (task.folder, only) not in _confined:
        confined = copy.copy(task)
        confined.only = only
        _confined[task.folder, only] = confined
    return _confined[task.folder, only]


def _give(task: Task, reference: str) -> Task:
    given = copy.copy(task)
    given.given, given.given_by = read_given(task, reference), reference
    return given


class Outline(NamedTuple):
    """What a reply is read against: the entry's name, its arguments (names alone), and the ops that may stand in for it."""

    entry: str
    entry_signature: tuple[Arg, ...]
    ops: tuple[Op, ...] = ()
    program_helpers: tuple[str, ...] = ()


def read_outline(name: str) -> Outline | None:
    """A task's outline as its source states it, without the seconds that importing it (and with it torch) takes.

    Returns:
        None where the source does not say it plainly: there is no such task, the values are computed, or several classes have them.
        What a signature takes from a module of this package (``*attention.PAGE_TABLES``) is read there.
    """
    path = (_find(split_name(name)[0]) or Path()) / "task.py"
    try:
        body = parse_module(path.read_text()).body
        shared = _shared_modules(body)
        found = [_outline(node, shared) for node in body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    plain = [outline for outline in found if outline]
    return plain[0] if len(plain) == 1 else None


def _shared_modules(body: list[ast.stmt]) -> dict[str, Path]:
    """Files of the modules that a task takes from this package (``from ... import attention``), by the names it has for them."""
    return {
        alias.asname or alias.name: Path(__file__).with_name(f"{alias.name}.py")
        for node in body if isinstance(node, ast.ImportFrom)
        if node.module == __package__ or (node.level, node.module) == (3, None)
        for alias in node.names
    }


def _outline(node: ast.ClassDef, shared: dict[str, Path]) -> Outline | None:
    values = _assigned(node.body)
    if "ops" in values:
        return None
    match values.get("entry"), values.get("signature"):
        case ast.Constant(value=str(entry)), ast.Tuple(elts=elements):
            names = [name for element in elements for name in _argument_names(element, shared)]
            if None not in names:
                return Outline(entry, tuple(Input(name) for name in names if name))
    return None


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        target.id: statement.value
        for statement in body if isinstance(statement, ast.Assign)
        for target in statement.targets if isinstance(target, ast.Name)
    }


def _argument_names(element: ast.expr, shared: dict[str, Path]) -> list[str | None]:
    """Names of the arguments that one element of a signature stands for; a None among them: not said plainly."""
    match element:
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case ast.Starred(value=ast.Attribute(value=ast.Name(id=module), attr=attribute)) if module in shared:
            taken = _assigned(parse_module(shared[module].read_text()).body).get(attribute)
            if isinstance(taken, ast.Tuple):
                return [name for part in taken.elts for name in _argument_names(part, {})]
    return [None]


def _builtin_root() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def _import(folder: Path) -> Task:
    try:
        module = _import_module(folder)
    except Exception as error:
        raise TaskError(f"task {folder.name!r}: {folder / 'task.py'} cannot be imported: {type(error).__name__}: {error}") from error
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise TaskError(f"task {folder.name!r}: task.py must define TASK, an instance of a Task subclass; found {task!r}")
    task.folder = folder
    _validate(task)
    return task


def _import_module(folder: Path) -> ModuleType:
    if folder.parent == _builtin_root().resolve():
        return importlib.import_module(f"{_PACKAGE}.{folder.name}.task")
    name = f"{_USER_PACKAGE}.{folder.name}"
    spec = importlib.util.spec_from_file_location(name, folder / "task.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _validate(task: Task) -> None:
    name = task.folder.name
    for attribute in ("entry", "summary", "semantics", "mirrors", "level", "category", "architectures", "signature", "baselines"):
        if not hasattr(task, attribute):
            raise TaskError(f"task {name!r} lacks the class attribute {attribute!r}; the task author's guide lists them all")
    if task.level not in ("L1", "L2", "L3", "L4"):
        raise TaskError(f"task {name!r}: level must be L1, L2, L3 or L4, it is {task.level!r}")
    if task.ops:
        check_program(task)
    if not task.outputs:
        raise TaskError(f"task {name!r}: its signature has no output; mark one argument Output or InOut")
    for baseline in task.baselines:
        if not (task.folder / "baselines" / baseline.file).is_file():
            raise TaskError(f"task {name!r}: baseline {baseline.name!r} needs baselines/{baseline.file}, which does not exist")
    devices = [device for device in ("cpu", "cuda") if task.workloads(device)]
    if not devices:
        raise TaskError(f"task {name!r}: workloads.jsonl holds no workload")
    for device in devices:
        if device not in getattr(task, "ragged", {}):
            raise TaskError(f"task {name!r} has workloads for {device!r} but no ranges of hidden sizes: add ragged[{device!r}]")
