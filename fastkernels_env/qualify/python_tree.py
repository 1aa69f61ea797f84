"""A Python source as a syntax tree whose nodes know their span in characters."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .._syntax import parse_module

_LAUNCH = {"num_warps", "num_stages", "num_ctas"}


class Tree:
    """A parsed source.

    Attributes:
        source: The text.
        nodes: Every node, outer before inner, but for launch options (warps, stages): they change speed alone.

    Raises:
        SyntaxError: The source does not parse.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._starts = [0]
        for line in source.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._lines = source.split("\n")
        self._root = parse_module(source)
        speed = set(map(id, _launch_options(self._root)))
        self.nodes = [node for node in ast.walk(self._root) if id(node) not in speed]

    def of(self, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
        """Nodes of a kind."""
        return (node for node in self.nodes if isinstance(node, kind))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Start and end of a node that has a position, in characters."""
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.arg)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.AST) -> str:
        """Source of a node."""
        start, end = self.span(node)
        return self.source[start:end]

    def _offset(self, line: int, column: int) -> int:
        """Characters before a position that is given in UTF-8 bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def _launch_options(root: ast.AST) -> Iterator[ast.AST]:
    """Nodes of the values that are passed as launch options, and of assignments to names that are used for nothing else."""
    options = [node.value for node in ast.walk(root) if isinstance(node, ast.keyword) and node.arg in _LAUNCH]
    inside = {id(part) for value in options for part in ast.walk(value)}
    names = {value.id for value in options if isinstance(value, ast.Name)}
    names -= {n.id for n in ast.walk(root) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in inside}
    for value in options:
        yield from ast.walk(value)
    for node in ast.walk(root):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id in names:
            yield from ast.walk(node)
