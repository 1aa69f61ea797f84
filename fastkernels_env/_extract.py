"""What a piece of source code defines: its language, the entry and its arguments, the kernels. Nothing is executed."""

from __future__ import annotations

import ast
import itertools
import re
import threading
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from ._syntax import parse_module
from .types import Language

EXTRAS = {"plan": "plan", "prepared": "prepare"}
"""Keyword-only arguments that a Python entry may add, and the function of the module whose result they receive."""

_PYTHON_TAGS = {"python", "python3", "py", "triton"}
_CUDA_TAGS = {"cuda", "cu", "cuh"}
_C_TAGS = {"cpp", "c++", "cxx", "cc", "c"}
_PARSING = threading.Lock()

_TOKEN = re.compile(
    r"""
    //[^\n]*
    | /\*(?:.*?\*/|.*)
    | ^[ \t]*\#(?:\\\n|[^\n])*
    | (?:u8|[uUL])?R"(?P<mark>[^()\\\s]{0,16})\((?:.*?\)(?P=mark)"|.*)
    | "(?:\\.|[^"\\\n])*"?
    | \d(?:'?[\w.])*
    | '(?:\\.|[^'\\\n])*'?
    | [^\W\d]\w*
    | <<<|::|->
    | \S
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_INCLUDE = re.compile(r"#[ \t]*include\b")
_CUDA_HEADER = re.compile(r"cuda|cub/|cute/|cutlass/|cublas|cudnn|cufft|curand|cusparse|cooperative_groups|thrust/|\bmma\.h")
_CUDA_WORDS = {"__global__", "__device__", "<<<"}
_NOT_A_TYPE = {"return", "else", "do", "new", "throw", "case", "goto", "co_return", "co_await"}
_CLOSING = {")": "(", "]": "[", "}": "{"}


class Definition(NamedTuple):
    """The entry as a piece of code defines it. `arguments` is None for Python that does not parse."""

    language: Language
    arguments: tuple[str, ...] | None
    extras: tuple[str, ...] = ()
    """Keyword-only arguments."""
    helpers: Mapping[str, tuple[str, ...]] = {}
    """Arguments of the module-level functions ``plan`` and ``prepare``."""
    kernels: tuple[str, ...] = ()


def define(code: str, tag: str, entry: str) -> Definition | None:
    r"""Find the entry in a piece of code.

    Args:
        code: Source with ``\n`` line ends.
        tag: The fence's tag in lower case; empty if there is none.
        entry: Name of the function.

    Returns:
        The definition, or None if the code does not define the entry.
    """
    if tag in _PYTHON_TAGS:
        return _python(code, _parse(code), entry)
    if tag in _C_TAGS | _CUDA_TAGS:
        return _cpp(_tokens(code), entry, tag in _CUDA_TAGS)
    tree = _parse(code)
    if tree is not None:
        return _python(code, tree, entry)
    tokens = _tokens(code)
    if _is_c(tokens):
        return _cpp(tokens, entry)
    return _cpp(tokens, entry) or _python(code, None, entry)


def _parse(code: str) -> ast.Module | None:
    # The lock keeps two threads from restoring each other's warning filters.
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return parse_module(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _python(code: str, tree: ast.Module | None, entry: str) -> Definition | None:
    if tree is None:
        found = re.search(rf"^[ \t]*def[ \t]+{re.escape(entry)}[ \t]*\(", code, re.MULTILINE)
        return Definition(Language.PYTHON, None) if found else None
    functions = {function.name: function.args for function in _module_functions(tree)}
    if entry not in functions:
        return None
    return Definition(
        Language.PYTHON,
        _positional(functions[entry]),
        tuple(arg.arg for arg in functions[entry].kwonlyargs),
        {name: _positional(functions[name]) for name in EXTRAS.values() if name in functions},
        _python_kernels(tree),
    )


def _module_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions of the module's own scope, also inside ``if``, ``try`` and ``with``, in source order."""
    found: list[ast.FunctionDef] = []
    pending: list[ast.AST] = [*tree.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            pending.extend(ast.iter_child_nodes(node))
    return sorted(found, key=lambda function: function.lineno)


def _positional(arguments: ast.arguments) -> tuple[str, ...]:
    names = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args)]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return tuple(names)


def _python_kernels(tree: ast.Module) -> tuple[str, ...]:
    """Functions under a ``jit`` of Triton's, and kernels in CUDA sources that the module holds as strings."""
    nodes = list(ast.walk(tree))
    origins = _imported(nodes)
    kernels: list[str] = []
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            decorators = [_origin(decorator, origins) for decorator in node.decorator_list]
            kernels += [node.name for name in decorators if name.startswith("triton.") and name.endswith(".jit")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "__global__" in node.value:
            kernels += _cpp_kernels(_tokens(node.value))
    return tuple(dict.fromkeys(kernels))


def _imported(nodes: list[ast.AST]) -> dict[str, str]:
    """What the names that a module imports stand for, in full."""
    origins: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                root = name.name.partition(".")[0]
                origins[name.asname or root] = name.name if name.asname else root
        elif isinstance(node, ast.ImportFrom):
            origins |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return origins


def _origin(decorator: ast.expr, origins: Mapping[str, str]) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return ".".join([origins.get(node.id, node.id), *reversed(attributes)]) if isinstance(node, ast.Name) else ""


def _tokens(code: str) -> list[str]:
    """Tokens of C-family code without comments; a preprocessor directive is one token that begins with ``#``."""
    tokens = (match[0].strip() for match in _TOKEN.finditer(code))
    return [token for token in tokens if not token.startswith(("//", "/*"))]


def _is_c(tokens: list[str]) -> bool:
    return "__global__" in tokens or any(_INCLUDE.match(token) for token in tokens)


def _cpp(tokens: list[str], entry: str, cuda: bool = False) -> Definition | None:
    found = _cpp_definitions(tokens, entry)
    if not found:
        return None
    headers = (token for token in tokens if _INCLUDE.match(token))
    cuda = cuda or not _CUDA_WORDS.isdisjoint(tokens) or any(_CUDA_HEADER.search(header) for header in headers)
    return Definition(Language.CUDA if cuda else Language.CPP, found[-1], kernels=_cpp_kernels(tokens))


def _cpp_definitions(tokens: list[str], entry: str) -> list[tuple[str, ...]]:
    """Parameter names of every function definition of that name that is no kernel.

    Scopes are not followed, so that a missing brace elsewhere is left to the compiler to report.
    """
    ends = _parentheses(tokens)
    kernel = False
    found: list[tuple[str, ...]] = []
    for index, token in enumerate(tokens):
        kernel = token == "__global__" or (kernel and token not in (";", "{", "}"))
        if token == entry and not kernel and index + 1 in ends and index and _ends_type(tokens[index - 1]):
            end = ends[index + 1]
            if _has_body(tokens, end + 1, ends):
                found.append(_parameters(tokens[index + 2 : end]))
    return found


def _parentheses(tokens: list[str]) -> dict[int, int]:
    ends: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token == "(":
            opened.append(index)
        elif token == ")" and opened:
            ends[opened.pop()] = index
    return ends


def _ends_type(token: str) -> bool:
    return token in (">", "*", "&", "]", ")") or (token.isidentifier() and token not in _NOT_A_TYPE)


def _has_body(tokens: list[str], index: int, ends: Mapping[int, int]) -> bool:
    """Whether a parameter list is followed by a body, behind at most a few specifiers (``noexcept``, ``-> void``)."""
    for _ in range(16):
        if index >= len(tokens) or tokens[index] in (";", "=", "}", ")", ","):
            return False
        if tokens[index] == "{":
            return True
        index = ends.get(index, index) + 1
    return False


def _parameters(tokens: list[str]) -> tuple[str, ...]:
    """Name of each parameter: its last identifier outside brackets and before a default value."""
    if tokens in ([], ["void"]):
        return ()
    names: list[str] = []
    name, default = "", False
    for token, depth in zip(tokens, _depths(tokens), strict=True):
        if depth:
            continue
        if token == ",":
            names.append(name)
            name, default = "", False
        elif token == "=":
            default = True
        elif token.isidentifier() and not default:
            name = token
    return (*names, name)


def _depths(tokens: list[str], angles: bool = True) -> list[int]:
    """Bracket depth of each token, brackets themselves included. `<` that nothing closes is taken for "less than"."""
    opened: list[str] = []
    depths: list[int] = []
    for token in tokens:
        if token in ("(", "[", "{") or (angles and token == "<"):
            opened.append(token)
        while opened and opened[-1] == "<" and token in _CLOSING:
            opened.pop()
        depths.append(len(opened))
        if opened and opened[-1] == ("<" if token == ">" and angles else _CLOSING.get(token)):
            opened.pop()
    return _depths(tokens, angles=False) if angles and opened else depths


def _cpp_kernels(tokens: list[str]) -> tuple[str, ...]:
    """Names of the ``__global__`` functions, in order: the first name before a parenthesis that is no attribute (``__...``)."""
    kernels: list[str] = []
    pending = False
    for token, following in itertools.pairwise(tokens):
        if token == "__global__":
            pending = True
        elif token in (";", "{", "}"):
            pending = False
        elif pending and following == "(" and token.isidentifier() and not token.startswith("__"):
            kernels.append(token)
            pending = False
    return tuple(dict.fromkeys(kernels))
