"""A page is one file, and text in it is text."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.pages import html

NASTY = '<script>alert("&")</script>\x1b[2J\ud800'


class Reader(HTMLParser):
    """The text of a page, and whether its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open = "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@given(st.text(), st.text(), st.text())
def test_any_text_is_shown_as_it_is(title, cell, code):
    blocks = [html.table([cell], [[cell]]), html.code(code), html.details(cell, html.paragraph(code)), code]
    text = html.page(title, [html.Section(title, blocks)])
    reader = Reader(text)
    assert reader.open == []
    for word in (title, cell, code):
        assert "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in word) in reader.text
    text.encode()


def test_markup_is_kept_and_text_is_escaped():
    assert html.escape("a < b") == "a &lt; b"
    assert html.escape(html.escape("a < b")) == "a &lt; b"
    assert html.join("<", html.styled("<", "bad"), None, 3) == '&lt;<span class="bad">&lt;</span>3'
    page = html.page(NASTY, [html.Section(NASTY, [NASTY, html.figure("<svg></svg>", NASTY)])], NASTY)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "<figure><svg></svg>" in page


def test_tables():
    text = html.table(("name", "value"), [("a", 1), ("b", None)], {"value": "r"})
    assert text.count("<tr>") == 3
    assert '<td>a</td><td class="right">1</td>' in text
    assert '<td>b</td><td class="right"></td>' in text
    assert text == html.table(("name", "value"), [("a", 1), ("b", None)], "lr")
    assert "<table" not in html.table(("name",), [], empty="No runs.")
    assert "No runs." in html.table(("name",), [], empty="No runs.")


def test_ids_of_two_pictures_differ_and_their_references_follow():
    svg = '<svg><defs><path id="p"/></defs><g clip-path="url(#p)"><use href="#p"/></g></svg>'
    text = html.page("t", [html.Section("s", [html.figure(svg), html.figure(svg)])])
    ids = re.findall(r'<path id="([^"]+)"', text)
    assert len(set(ids)) == 2
    assert re.findall(r'url\(#([^)]+)\)', text) == re.findall(r'use href="#([^"]+)"', text) == ids


@pytest.mark.parametrize("count", [1, 3])
def test_several_sections_are_linked(count):
    text = html.page("t", [html.Section(f"part {n}", []) for n in range(count)])
    assert text.count('href="#section-') == (count if count > 1 else 0)
    for target in re.findall(r'href="#(section-\d)"', text):
        assert f'id="{target}"' in text
