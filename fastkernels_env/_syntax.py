"""Python's parser, for one thread at a time.

Threads that parse at once make it raise SystemError before Python 3.11.8 and 3.12.2 (python/cpython#106905), and the judge parses while it
opens baselines, draws cases and reads a submission.
"""

from __future__ import annotations

import ast
import functools
import threading

_ONE = threading.Lock()


def parse_module(source: str) -> ast.Module:
    """The syntax tree of a module.

    Raises:
        SyntaxError: It is none.
        ValueError: The source holds null bytes.
    """
    with _ONE:
        return ast.parse(source)


@functools.lru_cache(maxsize=1024)
def parse_expression(source: str) -> ast.expr:
    """The syntax tree of an expression, not to be changed; raises what `parse_module` does."""
    with _ONE:
        return ast.parse(source, mode="eval").body
