"""A person's editor, and the file that it opens."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from ._terminal import Problem

_USUAL = ("nano", "vim", "vi", "emacs")
_TAGS = {".cpp": "cpp", ".cc": "cpp", ".cu": "cuda", ".py": "python"}
_BODIES = {
    "cpp": "#include <fastkernels.h>\n\n{signature} {{\n  // write every element of the outputs\n}}\n",
    "cuda": (
        "#include <cuda_runtime.h>\n#include <tvm/ffi/container/tensor.h>\n#include <tvm/ffi/extra/c_env_api.h>\n\n"
        "{signature} {{\n  // launch on the stream that TVMFFIEnvGetStream returns; write every element of the outputs\n}}\n"
    ),
    "python": "import triton\nimport triton.language as tl\n\n\n{signature}\n    pass  # write every element of the outputs\n",
}


def find_editor(choice: str | None) -> list[str]:
    """The command of an editor: a choice, else that of VISUAL or EDITOR, else one that is usually there.

    Raises:
        Problem: There is no such program, or none at all.
    """
    named = choice or os.environ.get("VISUAL") or os.environ.get("EDITOR")
    try:
        words = shlex.split(named) if named else [name for name in _USUAL if shutil.which(name)][:1]
    except ValueError as error:
        raise Problem(f"expected the command of an editor, got {named!r} ({error})") from error
    if not words:
        raise Problem("no editor was found; set EDITOR, or name one with --editor")
    if shutil.which(words[0]) is None:
        raise Problem(f"the editor {words[0]!r} was not found; set EDITOR, or name another one with --editor")
    return words


def edit(editor: list[str], path: Path) -> int:
    """Open a file and wait until the editor ends; returns its exit status. Ctrl-C is the editor's meanwhile."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # not SIG_IGN, which the editor would inherit
    try:
        return subprocess.run([*editor, str(path)], check=False).returncode
    except OSError as error:
        raise Problem(f"the editor {editor[0]!r} cannot be started: {error.strerror or error}") from error
    finally:
        signal.signal(signal.SIGINT, before)


def default_suffix(device: str) -> str:
    """The ending of a source file in the language that counts most on a device."""
    return ".cu" if device == "cuda" else ".cpp"


def template(prompt: str, entry: str, suffix: str) -> str:
    """What a person starts from: the entry's signature, as the prompt gives it, in the language of a file's ending.

    Raises:
        Problem: The prompt has no signature in that language.
    """
    tag = _TAGS.get(suffix)
    found = re.search(rf"^```{tag}\n(.*\b{re.escape(entry)}\(.*?\))[;:]\n```$", prompt, re.MULTILINE) if tag else None
    if tag is None or found is None:
        offered = [ending for ending, name in _TAGS.items() if f"```{name}\n" in prompt]
        raise Problem(f"expected a file that ends in {' or '.join(offered)}, got one that ends in {suffix!r}")
    signature = found[1] + (":" if tag == "python" else "")
    mark = "#" if tag == "python" else "//"
    head = f"{mark} {entry}: the whole task is in {entry}.prompt.md, beside this file. Save and close the editor to have it judged.\n"
    return head + _BODIES[tag].format(signature=signature)
