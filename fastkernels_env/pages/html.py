"""A self-contained HTML page: one file with its style and pictures in it, fit for a browser without a network and for paper.

Text is escaped wherever it comes in, unless it is `Markup`, which the functions of this module return.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_ID = re.compile(r"""(\bid="|\bhref="#|url\(#)([^")]+)""")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #60666d; --line: #d9dde1; --soft: #f3f5f7; --back: #ffffff;
  --good: #1a7f37; --bad: #c2322d; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7eb; --dim: #9aa2ab; --line: #363c43; --soft: #1f242a; --back: #14181c;
  --good: #4cc26b; --bad: #ff7b72; --warn: #d9a634; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 68rem; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .5rem 0; max-width: 52rem; }
p.note, figcaption, p.empty { color: var(--dim); font-size: .9rem; }
nav { margin: .6rem 0 0; font-size: .9rem; }
nav a { margin-right: 1rem; color: inherit; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td.right, th.right { text-align: right; white-space: nowrap; }
td.centre, th.centre { text-align: center; }
td.wide { min-width: 14rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 4px; padding: .7rem .9rem; overflow-x: auto;
  font: 12.5px/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace; tab-size: 4; }
details { margin: .4rem 0; }
summary { cursor: pointer; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .dim { color: var(--dim); }
.whole { white-space: nowrap; }
.swatch { display: inline-block; width: .7em; height: .7em; margin-right: .4em; border-radius: 2px; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } pre { white-space: pre-wrap; } }
"""


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of a page: a heading and the blocks under it. A block that is no `Markup` is escaped."""

    title: str
    blocks: Sequence[str]


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """A whole page.

    Args:
        title: Its heading, and the title of the browser's window.
        sections: What it holds, in order; several get a line of links to them.
        note: A line under the heading: what the page was made from.

    Returns:
        An HTML document that refers to nothing outside of itself. The ids inside of its pictures are made distinct.
    """
    links = "".join(f'<a href="#section-{index}">{escape(section.title)}</a>' for index, section in enumerate(sections, 1))
    head = [f"<h1>{escape(title)}</h1>"]
    head += [f'<p class="note">{escape(note)}</p>'] if note else []
    head += [f"<nav>{links}</nav>"] if len(sections) > 1 else []
    parts = "".join(_section(index, section) for index, section in enumerate(sections, 1))
    body = "\n".join(head) + parts
    count = itertools.count(1)
    body = _SVG.sub(lambda found: _own_ids(found.group(), f"svg{next(count)}-"), body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def escape(value: object) -> Markup:
    """A value as HTML text. `Markup` stays as it is, None is empty; control characters become replacement marks."""
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    return Markup(html.escape("".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in text)))


def join(*parts: object) -> Markup:
    """Several values in a row, each escaped if need be."""
    return Markup("".join(escape(part) for part in parts))


def paragraph(text: object) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{escape(text)}</p>")


def heading(text: object) -> Markup:
    """A heading inside of a section."""
    return Markup(f"<h3>{escape(text)}</h3>")


def styled(text: object, style: str) -> Markup:
    """Text in the style ``good``, ``bad``, ``warn`` or ``dim``."""
    return Markup(f'<span class="{escape(style)}">{escape(text)}</span>')


def code(text: str) -> Markup:
    """Source code, as it stands."""
    return Markup(f"<pre><code>{escape(text)}</code></pre>")


def details(summary: object, *blocks: object) -> Markup:
    """Blocks that are folded until the reader opens them."""
    return Markup(f"<details><summary>{escape(summary)}</summary>{join(*blocks)}</details>")


def figure(svg: str, caption: str = "") -> Markup:
    """A picture.

    Args:
        svg: An SVG element, as the functions of `figures` return it. It is not escaped.
        caption: What it shows.
    """
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f"<figure>{svg}{below}</figure>")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], align: str | Mapping[str, str] = "", empty: str = "Nothing.") -> Markup:
    """A table.

    Args:
        header: Names of the columns.
        rows: Cells, as text, numbers, None (empty) or `Markup`.
        align: One letter per column: ``l``, ``r``, ``c``, or ``w`` for a column that needs room; ``l`` for those without. Or letters
            by column name.
        empty: What stands there instead of a table without rows.
    """
    letters = "".join(align.get(name, "l") for name in header) if isinstance(align, Mapping) else align.ljust(len(header), "l")
    classes = [{"r": ' class="right"', "c": ' class="centre"', "w": ' class="wide"'}.get(letter, "") for letter in letters]
    lines = ["<tr>" + "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(row, classes, strict=False)) + "</tr>" for row in rows]
    if not lines:
        return Markup(f'<p class="empty">{escape(empty)}</p>')
    names = "".join(f"<th{c}>{escape(name)}</th>" for name, c in zip(header, classes, strict=False))
    return Markup(f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _section(index: int, section: Section) -> str:
    blocks = "\n".join(block if isinstance(block, Markup) else paragraph(block) for block in section.blocks)
    return f'\n<section id="section-{index}"><h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _own_ids(svg: str, prefix: str) -> str:
    """A picture whose ids, and references to them, start with a prefix: on one page two pictures must not share any."""
    return _ID.sub(lambda found: f"{found.group(1)}{prefix}{found.group(2)}", svg)
