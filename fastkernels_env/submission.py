"""From a model's reply to the code in it: which block counts, its language, its entry.

Rules, in order; what breaks one raises `RejectedError`:

1. **Text**: at most `MAX_CHARS` characters, not blank, no NUL, nothing that UTF-8 cannot hold. CRLF and CR count as line ends, a
   byte-order mark is dropped.
2. **Reasoning** (``<think>``, ``<thinking>``, ``<reasoning>``) is ignored, drafts in it too. One that is never closed hides the
   rest of the reply.
3. **Fences** (three or more backticks or tildes, indented or not). Of the blocks that define the task's entry, or an inner operation of
   it, the last counts, so a usage example behind it does not. A fence that is never closed is a truncated reply. Without any fence the
   whole text is code.
4. **Language** from the fence's tag: Python for ``python``, ``python3``, ``py``, ``triton``; the C family for ``cpp``, ``c++``,
   ``cxx``, ``cc``, ``c``; CUDA for ``cuda``, ``cu``, ``cuh``. Any other tag, or none: Python if it parses as Python; else the C
   family if it includes a header, declares a kernel or defines the entry as a C++ function; else Python. The C family is CUDA if
   the code has ``__global__``, ``__device__``, ``<<<`` or an include of a CUDA header, else C++. A GPU cannot run C++ without
   kernels; CUDA on a CPU host is passed on, to be compiled at most.
5. **Entry**: a module-level Python function, or a C++ function that is no kernel, with the task's name and exactly its arguments in
   its order. Of a layer or a program one or several of its inner operations will do instead, in the same way. A Python entry may add
   the keyword-only arguments ``plan`` and ``prepared``; the module then defines ``plan`` or ``prepare`` with the entry's arguments.
   Python that does not parse is passed on if a line begins ``def <entry>(``: the build stage reports the syntax error.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ._extract import EXTRAS, Definition, define
from .types import Language, Submission

if TYPE_CHECKING:
    from .ops import Op
    from .registry import Outline
    from .task import Task

MAX_CHARS = 65536
"""Longest reply, in characters."""

LANGUAGES: Mapping[str, tuple[Language, ...]] = {
    "cpu": (Language.CPP, Language.PYTHON),
    "cuda": (Language.PYTHON, Language.CUDA),
}
"""Languages that are judged, by device kind."""

TIMED_LANGUAGES: Mapping[str, tuple[Language, ...]] = {"cpu": (Language.CPP,), "cuda": (Language.PYTHON, Language.CUDA)}
"""Those of them that are timed whatever they hold; of Python, a CPU cannot time Triton."""

_TAG = re.compile(r"(?<!`)<(/?)(think|thinking|reasoning)>", re.IGNORECASE)
_OPEN = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")
_CLOSE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*")
_INFO_WORD = re.compile(r"[\w+#-]+")
_CODE_INDENT = 4


class RejectedError(Exception):
    """A reply without usable code. `reason` is a sentence: what was expected, what came."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def extract(text: str, task: Task | Outline, device: str) -> Submission:
    """Take the submission out of a reply.

    Args:
        text: The reply, as the model wrote it.
        task: States the entry's name and arguments.
        device: ``cpu`` or ``cuda``.

    Raises:
        RejectedError: The reply holds no usable code; see the module's rules.
    """
    reply = _read(_checked(text))
    if reply.unclosed_fence:
        raise RejectedError(
            f"expected every code fence to be closed, the one in line {reply.unclosed_fence} is not: the reply was cut off; "
            "write less before the code"
        )
    for block in reversed(reply.blocks or (_Block("", reply.prose.strip("\n") + "\n"),)):
        if definition := define(block.code, block.tag, task.entry):
            return _submission(block.code, definition, task, device)
        if defined := {op: definition for op in task.ops if (definition := define(block.code, block.tag, op.name))}:
            return _replacement(block.code, defined, task, device)
    raise RejectedError(_nothing(reply, task))


def _checked(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise RejectedError(f"expected at most {MAX_CHARS:,} characters, got {len(text):,}; shorten the reply")
    if not text.strip():
        raise RejectedError("expected a reply with code, got an empty text")
    if "\0" in text:
        raise RejectedError(f"expected text, got a NUL byte at position {text.index(chr(0))}; send source code, not a binary")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedError(f"expected text that UTF-8 can hold, got a lone surrogate at position {error.start}") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _nothing(reply: _Reply, task: Task | Outline) -> str:
    wanted = f"a function {task.entry}({', '.join(_names(task))})"
    if task.ops:
        ops = ", ".join(f"{op.name}({', '.join(op.arguments)})" for op in task.ops)
        wanted += f", or one or several of {ops}"
    if reply.unclosed_tag:
        return f"expected {wanted} after the reasoning, but {reply.unclosed_tag} is never closed: the reply was cut off in it"
    if reply.blocks:
        plural = "s" if len(reply.blocks) > 1 else ""
        return f"expected {wanted}, found {len(reply.blocks)} fenced block{plural} and none that defines it"
    if reply.reasoned and not reply.prose.strip():
        return f"expected {wanted} after the reasoning, found nothing there"
    return f"expected {wanted} in a fenced code block, found neither a fence nor that function"


def _submission(code: str, definition: Definition, task: Task | Outline, device: str) -> Submission:
    _check_language(definition, device)
    _check_arguments(definition, task)
    return Submission(
        code=code,
        language=definition.language,
        entry=task.entry,
        arguments=definition.arguments or (),
        has_prepare="prepared" in definition.extras,
        has_plan="plan" in definition.extras,
        kernels=definition.kernels,
    )


def _replacement(code: str, defined: Mapping[Op, Definition], task: Task | Outline, device: str) -> Submission:
    """A submission of inner operations: they take no plan of their own, that is the program's."""
    for op, definition in defined.items():
        _check_language(definition, device)
        if definition.arguments is not None and definition.arguments != op.arguments:
            raise RejectedError(
                f"expected {op.name}({', '.join(op.arguments)}), found {op.name}({', '.join(definition.arguments)}); "
                "use exactly these argument names in this order"
            )
        if definition.extras:
            raise RejectedError(f"expected no keyword-only argument of {op.name}, found {definition.extras[0]!r}")
    first = next(iter(defined.values()))
    return Submission(
        code=code,
        language=first.language,
        entry=task.entry,
        arguments=_names(task),
        has_prepare="prepare" in task.program_helpers,
        has_plan="plan" in task.program_helpers,
        kernels=first.kernels,
        ops=tuple(op.name for op in defined),
    )


def _check_language(definition: Definition, device: str) -> None:
    if definition.language is Language.CPP and device == "cuda":
        raise RejectedError("expected Python (Triton) or CUDA C++, found C++ without a kernel, which a GPU cannot run")


def _check_arguments(definition: Definition, task: Task | Outline) -> None:
    expected = _names(task)
    if definition.arguments is None:
        return
    if definition.arguments != expected:
        raise RejectedError(
            f"expected {task.entry}({', '.join(expected)}), found {task.entry}({', '.join(definition.arguments)}); "
            "use exactly these argument names in this order"
        )
    for extra in definition.extras:
        helper = EXTRAS.get(extra)
        if helper is None:
            raise RejectedError(f"expected no keyword-only argument of {task.entry} but plan and prepared, found {extra!r}")
        found = definition.helpers.get(helper)
        if found is None:
            raise RejectedError(f"{task.entry} takes {extra!r}, so a module-level function {helper} is expected; found none")
        if found != expected:
            raise RejectedError(f"expected {helper}({', '.join(expected)}), found {helper}({', '.join(found)})")


def _names(task: Task | Outline) -> tuple[str, ...]:
    return tuple(arg.name for arg in task.entry_signature)


class _Block(NamedTuple):
    """A fenced block: the first word of its info string in lower case, and its content."""

    tag: str
    code: str


class _Reply(NamedTuple):
    """A reply without its reasoning.

    Attributes:
        blocks: The closed fenced blocks, in order.
        prose: Everything outside fences and reasoning.
        reasoned: Whether some of the reply was reasoning.
        unclosed_fence: Line number (from 1) of a fence that is never closed; 0 if there is none.
        unclosed_tag: The tag of a reasoning block that is never closed; empty if there is none.
    """

    blocks: tuple[_Block, ...]
    prose: str
    reasoned: bool
    unclosed_fence: int = 0
    unclosed_tag: str = ""


class _Fence(NamedTuple):
    indent: int
    mark: str
    tag: str

    def closed_by(self, line: str) -> bool:
        match = _CLOSE.fullmatch(line)
        if not match:
            return False
        indent, mark = _width(match[1]), match[2]
        return mark[0] == self.mark[0] and len(mark) >= len(self.mark) and indent < self.indent + _CODE_INDENT


class _Closings:
    """Where the closing tags of each name end, for look-ups in logarithmic time."""

    def __init__(self, text: str) -> None:
        self.first_is_closing: dict[str, int] = {}
        self._ends: dict[str, list[int]] = {}
        seen: set[str] = set()
        for match in _TAG.finditer(text):
            name = match[2].lower()
            if match[1]:
                self._ends.setdefault(name, []).append(match.end())
                if name not in seen:
                    self.first_is_closing[name] = match.end()
            seen.add(name)

    def after(self, name: str, position: int) -> int | None:
        """End of the first closing tag of that name behind `position`."""
        ends = self._ends.get(name, [])
        index = bisect.bisect_right(ends, position)
        return ends[index] if index < len(ends) else None


def _read(text: str) -> _Reply:
    r"""Split a reply into fenced blocks and prose.

    * Reasoning: ``<think>``, ``<thinking>`` and ``<reasoning>``, in any case, outside fences. A block ends at the first closing tag
      of the same name. A closing tag with no opening one before it ends a block that the prompt opened: all before it is reasoning.
      A tag that is never closed swallows the rest of the text if it begins a line; inside a line, or right behind a backtick, it is
      prose that mentions the tag.
    * Fences: a line of three or more backticks or tildes, at any indentation, and an info string (without backticks behind
      backticks). It is closed by at least as many of the same character, indented by less than four columns more than the opening.
      The indentation that an indented block has in common is removed, up to that of its fence.

    Args:
        text: The reply, with ``\n`` line ends.
    """
    closings = _Closings(text)
    position = max(closings.first_is_closing.values(), default=0)
    reasoned = position > 0
    blocks: list[_Block] = []
    prose: list[str] = []
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end]
        if fence := _fence(line):
            block, after = _block(text, end, fence)
            if block is None:
                number = text.count("\n", 0, position) + 1
                return _Reply(tuple(blocks), "".join(prose), reasoned, unclosed_fence=number)
            blocks.append(block)
            position = after
        elif tag := _reasoning_in(line, position, closings):
            start, name, after_tag = tag
            prose.append(text[position:start])
            if after_tag is None:
                return _Reply(tuple(blocks), "".join(prose), True, unclosed_tag=f"<{name}>")
            position, reasoned = after_tag, True
        else:
            prose.append(text[position : end + 1])
            position = end + 1
    return _Reply(tuple(blocks), "".join(prose), reasoned)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _width(indent: str) -> int:
    return len(indent.expandtabs(_CODE_INDENT))


def _fence(line: str) -> _Fence | None:
    match = _OPEN.fullmatch(line)
    if not match or (match[2][0] == "`" and "`" in match[3]):
        return None
    word = _INFO_WORD.search(match[3].lower())
    return _Fence(_width(match[1]), match[2], word[0] if word else "")


def _block(text: str, position: int, fence: _Fence) -> tuple[_Block | None, int]:
    lines: list[str] = []
    for line, after in _lines(text, position + 1):
        if fence.closed_by(line):
            return _Block(fence.tag, _dedent(lines, fence.indent)), after
        lines.append(line)
    return None, len(text)


def _lines(text: str, position: int) -> Iterator[tuple[str, int]]:
    while position < len(text):
        end = _line_end(text, position)
        yield text[position:end], end + 1
        position = end + 1


def _dedent(lines: list[str], limit: int) -> str:
    filled = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    cut = min([limit, *filled])
    return "".join(f"{line[cut:]}\n" for line in lines)


def _reasoning_in(line: str, offset: int, closings: _Closings) -> tuple[int, str, int | None] | None:
    """Start and name of the first reasoning block that opens in a line, and the end of its closing tag."""
    for match in _TAG.finditer(line):
        if not match[1]:
            name = match[2].lower()
            after = closings.after(name, offset + match.end())
            if after is not None or not line[: match.start()].strip():
                return offset + match.start(), name, after
    return None
