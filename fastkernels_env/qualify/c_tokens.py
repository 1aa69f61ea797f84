"""C++ and CUDA as tokens: enough structure to edit expressions and statements, without a parser.

Comments, strings and preprocessor lines are no tokens that operators touch. What is misjudged yields a mutant that does not compile,
which is reported and not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<skip> \s+ | //[^\n]* | /\*.*?(?:\*/|\Z) | ^[ \t]*\#(?:\\\n|[^\n])* )
    | (?P<string> R"(?P<raw>[^\s()\\]{0,16})\(.*?\)(?P=raw)" | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+' )
    | (?P<number> (?:0[xX][0-9a-fA-F']+ | 0[bB][01']+ | (?:\d[\d']*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[a-zA-Z]* )
    | (?P<name> [A-Za-z_]\w* )
    | (?P<mark> <<<|>>>|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|::|. )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE | re.ASCII,
)
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}
_NO_VALUE = {"return", "case", "else", "throw", "do", "in", "sizeof"}
_NOT_IN_TEMPLATE = {";", "{", "}", "&&", "||", "?", "=", "[", "]", "==", "!=", "<=", ">=", "+=", "return", "<<", "<<<", ">>>"}
CONTROL = {
    "if", "for", "while", "switch", "do", "return", "case", "default", "else", "struct", "template", "using", "typedef", "static",
    "constexpr", "const", "goto", "try", "catch", "throw", "extern", "namespace", "class", "enum", "__shared__", "asm",
}
TYPES = {"float", "double", "int", "unsigned", "bool", "char", "long", "size_t", "half", "__half", "__nv_bfloat16"} | {
    f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class Token(NamedTuple):
    """``kind`` is ``name``, ``number``, ``string`` or ``mark``."""

    kind: str
    text: str
    start: int
    end: int


class Code:
    """A source as tokens.

    Attributes:
        source: The text.
        tokens: In order.
        partner: Index of the bracket that closes or opens the one at an index; template brackets too.
        parent: Index of the innermost round, square or curly bracket around each token; -1 outside all.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = list(_scan(source))
        self.partner: dict[int, int] = {}
        self.parent: list[int] = []
        self._match()
        self._match_templates()

    def text(self, first: int, last: int) -> str:
        """Source from one token to another, both included."""
        return self.source[self.tokens[first].start : self.tokens[last].end]

    def at(self, index: int) -> str:
        """Text of a token; empty beyond the ends."""
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def is_value(self, index: int) -> bool:
        """Whether a token can end an operand."""
        if not 0 <= index < len(self.tokens):
            return False
        token = self.tokens[index]
        return token.kind in ("number", "string") or token.text in (")", "]") or (token.kind == "name" and token.text not in _NO_VALUE)

    def is_binary(self, index: int) -> bool:
        """Whether an operator stands between two operands: with space on both sides, or on neither (`T* x` declares)."""
        if not self.is_value(index - 1) or index + 1 >= len(self.tokens) or index in self.partner:
            return False
        before, token, after = self.tokens[index - 1 : index + 2]
        if after.text in (">", ")", "]", ",", ";", "}"):
            return False
        return (before.end == token.start) == (token.end == after.start)

    def following(self, index: int) -> int:
        """The next token behind one, or behind the bracket that it opens."""
        partner = self.partner.get(index, index)
        return max(partner, index) + 1

    def split(self, opening: int, mark: str) -> list[tuple[int, int]]:
        """Token ranges (both ends included) between the marks directly inside a bracket; empty ones left out."""
        parts, first, index, end = [], opening + 1, opening + 1, self.partner.get(opening, opening)
        while index < end:
            if self.at(index) == mark:
                parts.append((first, index - 1))
                first = index + 1
            index = self.following(index)
        return [(a, b) for a, b in [*parts, (first, end - 1)] if a <= b]

    def operand_end(self, index: int) -> int:
        """Last token of the operand that starts at `index`: prefix operators, a name, number or bracket, calls, subscripts, members.

        A text that ends inside of it ends it.
        """
        while self.at(index) in ("-", "+", "!", "~", "*", "&"):
            index += 1
        index = self.partner.get(index, index) if self.at(index) == "(" else index
        while True:
            if self.at(index + 1) in ("::", ".", "->"):
                index += 2
            elif self.partner.get(index + 1, -1) > index + 1 and self.at(index + 1) in ("(", "[", "<"):
                index = self.partner[index + 1]
            else:
                return min(index, len(self.tokens) - 1)

    def statements(self) -> Iterator[tuple[int, int]]:
        """Expression statements in function bodies, ``break`` and ``continue``: first token and semicolon."""
        for index in range(1, len(self.tokens)):
            if self._starts_statement(index) and self.at(index) not in CONTROL:
                end = index
                while end < len(self.tokens) and self.at(end) not in (";", "{", "}"):
                    end = self.following(end)
                if self.at(end) == ";" and not self.is_declaration(index, end) and end > index:
                    yield index, end

    def is_declaration(self, first: int, end: int) -> bool:
        """Whether a statement declares: a type, then a name."""
        index = first
        while self.at(index + 1) == "::":
            index += 2
        if self.tokens[index].kind != "name":
            return False
        if self.at(index + 1) == "<" and index + 1 in self.partner:
            index = self.partner[index + 1]
        if self.at(first) in TYPES:
            return True
        after = index + 1
        while after < end and self.at(after) in ("*", "&", "const") and not self.is_binary(after):
            after += 1
        return self.tokens[after].kind == "name" and (after > index + 1 or self.at(index) not in ("break", "continue"))

    def _starts_statement(self, index: int) -> bool:
        parent = self.parent[index]
        if parent < 0 or self.at(parent) != "{" or index in self.partner:
            return False
        before = self.at(index - 1)
        if before == ")":
            opening = self.partner.get(index - 1, 0)
            return self.at(opening - 1) in ("if", "for", "while")
        return before in ("{", "}", ";", "else") or (before == ":" and self.at(index - 3) == "case")

    def _match(self) -> None:
        stack: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.text in _CLOSE and stack and token.kind == "mark":
                opening = stack.pop()
                if _OPEN[self.at(opening)] == token.text:
                    self.partner[opening], self.partner[index] = index, opening
            self.parent.append(stack[-1] if stack else -1)
            if token.text in _OPEN and token.kind == "mark":
                stack.append(index)

    def _match_templates(self) -> None:
        for index, token in enumerate(self.tokens):
            if token.text == "<" and index not in self.partner and (self.tokens[index - 1].kind == "name"):
                closing = self._template_end(index)
                if closing:
                    self.partner[index], self.partner[closing] = closing, index

    def _template_end(self, index: int) -> int:
        """The bracket that ends a template's arguments, or 0 if ``<`` compares."""
        depth = 0
        for end in range(index, len(self.tokens)):
            text = self.at(end)
            if text in _NOT_IN_TEMPLATE or (text == ")" and self.partner.get(end, end) < index):
                return 0
            depth += {"<": 1, ">": -1}.get(text, 0)
            if depth == 0:
                return end
        return 0


def _scan(source: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(source):
        if match.group("skip") is None:
            kind = next(kind for kind in ("string", "number", "name", "mark") if match.group(kind) is not None)
            yield Token(kind, match.group(), match.start(), match.end())
