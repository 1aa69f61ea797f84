"""A person as the policy: a real terminal, a scripted editor, a real judge."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from fastkernels_env import read_log
from fastkernels_env._editor import find_editor, template
from fastkernels_env._terminal import Problem
from fastkernels_env.prompt import build_prompt
from fastkernels_env.registry import load_task, task_folders

COMMAND = [sys.executable, "-m", "fastkernels_env", "play"]
SECONDS = 180
ASKED = "[q]uit?"


class Person:
    """A process on a terminal of its own, and what it has shown."""

    def __init__(self, arguments, env, cwd):
        self._primary, secondary = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=env, cwd=cwd, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal: Ctrl-C arrives
        )
        os.close(secondary)
        self.shown = ""

    def wait_for(self, text):
        """What was shown until a text came."""
        end = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} never came; shown was: {self.shown}"
            if select.select([self._primary], [], [], 1)[0]:
                try:
                    data = os.read(self._primary, 65536)
                except OSError:  # the other end is closed
                    data = b""
                assert data, f"it ended before {text!r} came; shown was: {self.shown}"
                self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        part, self.shown = self.shown.split(text, 1)
        return part + text

    def type(self, text):
        os.write(self._primary, text.encode())

    def end(self):
        """All that is left to show, and the exit status."""
        while True:
            try:
                data = os.read(self._primary, 65536)
            except OSError:
                break
            if not data:
                break
            self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        os.close(self._primary)
        return self.shown, self.process.wait(SECONDS)


@pytest.fixture
def person(tiny_root, tmp_path):
    """Start a game in a folder of the test; what is still running is ended."""
    (tmp_path / "tmp").mkdir()
    env = {
        **os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root), "TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "100", "TERM": "xterm",
        "VISUAL": "", "EDITOR": "",
    }
    games = []

    def start(*arguments):
        games.append(Person(["tiny_scale", "--device", "cpu", "--effort", "quick", *arguments], env, tmp_path))
        return games[-1]

    yield start
    for game in games:
        if game.process.poll() is None:
            os.killpg(game.process.pid, signal.SIGKILL)
            game.process.wait()


@pytest.fixture
def editor(tmp_path):
    """The command of an editor that runs shell commands, of which `$1` is the file."""

    def write(script):
        path = tmp_path / "editor.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def test_a_game_from_template_to_accepted(person, editor, task_files, tmp_path):
    (tmp_path / "right.cpp").write_text(task_files.texts["cpu"])
    # The first time it only spoils the file, the second time it writes a kernel.
    script = editor(f'cp "$1" {tmp_path}/seen.cpp; if [ -e {tmp_path}/again ]; then cp {tmp_path}/right.cpp "$1"; '
                    f'else touch {tmp_path}/again; echo "this is no code" > "$1"; fi')
    game = person("--editor", script, "--log", "log.jsonl")
    first = game.wait_for(ASKED)
    assert "REJECTED" in first
    assert "best so far: nothing accepted yet" in first
    start = (tmp_path / "seen.cpp").read_text()
    assert "void tiny_scale(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double factor)" in start
    game.type("p\n")
    assert "## Signature" in game.wait_for(ASKED)
    game.type("what\n")
    assert "got 'what'" in game.wait_for(ASKED)
    game.type("e\n")
    second = game.wait_for(ASKED)
    assert "ACCEPTED" in second
    assert "tiny_scale-2.cpp" in second
    game.type("e\n")
    assert "the file is as it was" in game.wait_for(ASKED)
    game.type("q\n")
    last, status = game.end()
    assert status == 0
    folder = tmp_path / "play-tiny_scale"
    assert str(folder / "tiny_scale.cpp") in last
    assert (folder / "tiny_scale-1.cpp").read_text() == "this is no code\n"
    assert (folder / "tiny_scale-2.cpp").read_text() == (folder / "tiny_scale.cpp").read_text() == (tmp_path / "right.cpp").read_text()
    assert "## Signature" in (folder / "tiny_scale.prompt.md").read_text()
    assert [(record.outcome, record.context.turn) for record in read_log(tmp_path / "log.jsonl")] == [("rejected", 0), ("accepted", 1)]


def test_the_last_turn_ends_the_game(person, editor, tmp_path):
    (tmp_path / "mine.py").write_text("print('mine')\n")
    game = person("--editor", editor('echo "oops(" >> "$1"'), "--max-turns", 1, "--file", "mine.py")
    text, status = game.end()
    assert status == 0
    assert "going on with mine.py" in text
    assert "That was the last turn." in text
    assert (tmp_path / "mine.py").read_text() == "print('mine')\noops(\n"


def test_nothing_is_judged_that_was_not_written(person, editor):
    game = person("--editor", editor("exit 3"))
    assert "ended with status 3; nothing was judged" in game.wait_for(ASKED)
    game.type("\x04")
    assert game.end()[1] == 0


def test_ctrl_c_ends_it_and_names_the_file(person, editor, tmp_path):
    game = person("--editor", editor("exit 0"))
    game.wait_for(ASKED)
    game.type("\x03")
    text, status = game.end()
    assert status == 130
    assert "Traceback" not in text
    assert str(tmp_path / "play-tiny_scale" / "tiny_scale.cpp") in text


def test_ctrl_c_in_the_editor_is_the_editors(person, editor):
    game = person("--editor", editor("echo pen is ready; sleep 600"))
    game.wait_for("pen is ready")
    game.type("\x03")
    assert "nothing was judged" in game.wait_for(ASKED)
    game.type("q\n")
    assert game.end()[1] == 0


@pytest.mark.parametrize(("arguments", "words"), [
    (["--editor", "no-such-editor-here"], "was not found"),
    (["--editor", "'open"], "expected the command of an editor"),
    (["--editor", "true", "--file", "kernel.txt"], "ends in '.txt'"),
    (["--editor", "true", "--effort", "none"], "full or quick"),
    (["--editor", "true", "--reward", "none"], "none"),
])
def test_bad_arguments_are_one_sentence(person, arguments, words):
    text, status = person(*arguments).end()
    assert status == 2
    assert words in text
    assert text.count("\n") == 1


def test_without_a_terminal(tiny_root):
    done = subprocess.run(
        [*COMMAND, "tiny_scale"], env={**os.environ, "FASTKERNELS_ENV_PATH": str(tiny_root)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
    assert "evaluate tiny_scale FILE" in done.stderr


def test_which_editor(monkeypatch):
    monkeypatch.setenv("VISUAL", "sh -c")
    monkeypatch.setenv("EDITOR", "cat")
    assert find_editor(None) == ["sh", "-c"]
    assert find_editor("cat -n") == ["cat", "-n"]
    monkeypatch.delenv("VISUAL")
    assert find_editor(None) == ["cat"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Problem, match="'cat' was not found"):
        find_editor(None)
    monkeypatch.delenv("EDITOR")
    with pytest.raises(Problem, match="no editor"):
        find_editor(None)


@pytest.mark.parametrize("name", task_folders())
def test_every_task_has_a_template_in_its_languages(name):
    task = load_task(name)
    for device, endings in (("cpu", (".cpp", ".py")), ("cuda", (".cu", ".py"))):
        for ending in endings if task.workloads(device) else ():
            text = template(build_prompt(task, device), task.entry, ending)
            assert f"{task.entry}(" in text
            if ending == ".py":
                compile(text, name, "exec")
