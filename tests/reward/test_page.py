"""The page about rewards: its blocks run and print what it says, and it knows every preset and term."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastkernels_env import reward

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the blocks of the page print, run in order in an empty folder."""
    folder = tmp_path_factory.mktemp("page")
    program = ""
    for language, file, text in BLOCK.findall(PAGE):
        if file:
            (folder / file).write_text(text)
        elif language == "python":
            program += text
    (folder / "blocks.py").write_text(program)
    run = subprocess.run([sys.executable, "blocks.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_table_of_worked_values_is_what_its_block_prints(printed):
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == 9
    header, *values = rows
    assert "\n".join([header, "|" + " --- |" * (header.count("|") - 1), *values]) in PAGE


def test_printed_text_is_what_the_page_shows(printed):
    shown = [text for language, _, text in BLOCK.findall(PAGE) if language == "text"]
    assert len(shown) == 2
    assert all(text in printed for text in shown)


def test_it_knows_every_preset_and_every_term():
    for name in (*reward.preset_names(), *shipped_terms()):
        assert f"`{name}`" in PAGE, name


def shipped_terms():
    """Terms of the library, without those that tests registered."""
    return [name for name in reward.term_names() if reward.registry.get_term(name).function.__module__.startswith("fastkernels_env.")]
