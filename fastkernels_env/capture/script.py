"""Runs a script under the recorder, in this process, as ``python script.py`` would run it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from .observation import Observation
from .recorder import Recorder


class ScriptError(RuntimeError):
    """The script cannot be run, or failed; the message says how."""


def record_script(path: Path, arguments: Sequence[str]) -> list[Observation]:
    """The ops of a script, with whatever tensors it uses. What runs in processes that it starts is not seen.

    Args:
        path: The script; its folder is importable, as usual.
        arguments: ``sys.argv[1:]`` for it.

    Raises:
        ScriptError: There is no such file, or it raised.
    """
    if not path.is_file():
        raise ScriptError(f"there is no script {path}; name a Python file")
    recorder, before = Recorder(), (sys.argv, sys.path[:])
    sys.argv, sys.path[:0] = [str(path), *arguments], [str(path.resolve().parent)]
    try:
        with recorder:
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise ScriptError(f"{path} ended with status {end.code}; it must run to its end by itself") from end
    except Exception as error:
        raise ScriptError(f"{path} failed: {type(error).__name__}: {error}; it must run to its end by itself") from error
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
    return recorder.observations
