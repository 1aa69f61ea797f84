"""Native code that was built is not built again, and nothing that a submission can reach is used."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from fastkernels_env import builds
from fastkernels_env.build import Build, BuildError, probe_containment
from fastkernels_env.builds import KeptBuilds, key_of
from fastkernels_env.types import Language, Outcome, Submission

pytestmark = pytest.mark.skipif(bool(probe_containment().missing), reason="this host lacks a layer of containment: nothing is kept")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has built nothing yet."""
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path))
    monkeypatch.setattr(KeptBuilds, "seen", None)
    return tmp_path


@pytest.fixture
def source(task_files):
    return textwrap.dedent(task_files.texts["cpu"])


def submission(code):
    return Submission(code=code, language=Language.CPP, entry="tiny_scale", arguments=("out", "input", "weight", "factor"))


def built(code):
    """The library, and whether a compiler ran."""
    with Build(submission(code)) as build:
        compiled = build._process is not None
        return Path(build.result().path).read_bytes(), compiled


def test_the_same_source_is_compiled_once(source):
    first, again, other = built(source), built(source), built(f"{source}\n// another")
    assert (first[1], again[1], other[1]) == (True, False, True)
    assert first[0] == again[0]


def test_a_process_compiles_until_it_knows_that_nobody_else_gets_there(source, monkeypatch):
    built(source)
    monkeypatch.setattr(KeptBuilds, "seen", None)
    assert built(source)[1]
    assert not built(source)[1]


def test_where_a_layer_is_missing_nothing_is_used_or_kept(source, monkeypatch, cache):
    built(source)
    kept = set((cache / "builds").iterdir())
    monkeypatch.setenv("FASTKERNELS_UID_BASE", str(2**32 - 10))  # no user ids are left for submissions
    assert built(source)[1]
    assert built(f"{source}\n// another")[1]
    assert set((cache / "builds").iterdir()) == kept
    monkeypatch.delenv("FASTKERNELS_UID_BASE")
    assert built(source)[1], "what was seen under other settings says nothing"


def test_what_does_not_compile_is_not_kept(cache):
    for _ in range(2):
        with Build(submission("nonsense")) as build:
            assert build._process is not None
            with pytest.raises(BuildError):
                build.result()
    assert not (cache / "builds").exists()


def test_no_other_user_can_look(source, cache):
    built(source)
    assert (cache / "builds").stat().st_mode & 0o777 == 0o700
    assert (cache / "builds").stat().st_uid == os.geteuid()


def test_what_was_not_used_for_long_goes_first(source, cache, monkeypatch):
    monkeypatch.setattr(builds, "MOST", 2)
    for number in (1, 2):
        built(f"{source}\n// {number}")
    kept = {number: cache / "builds" / key_of(submission(f"{source}\n// {number}"), True) for number in (1, 2, 3)}
    os.utime(kept[2], (0, 0))
    built(f"{source}\n// 3")
    assert [number for number, path in kept.items() if path.exists()] == [1, 3]


def test_a_folder_that_cannot_be_written_keeps_nothing(source, cache):
    (cache / "builds").write_text("a file")
    assert built(source)[1]
    assert built(source)[1]


@pytest.mark.parametrize("change", [{"code": "other"}, {"entry": "other"}, {"language": Language.CUDA}])
def test_a_key_is_of_all_that_a_build_depends_on(change):
    plain = {"code": "code", "entry": "entry", "language": Language.CPP}
    assert key_of(Submission(**plain, arguments=()), True) != key_of(Submission(**plain | change, arguments=()), True)
    assert key_of(Submission(**plain, arguments=()), True) != key_of(Submission(**plain, arguments=()), False)


def test_a_second_evaluation_of_the_same_source_has_the_same_verdict_and_containment(evaluator, tiny):
    text = tiny.seeds()["cpu.cpp"]
    first, second = (evaluator.evaluate("tiny_scale", text) for _ in range(2))
    assert first.outcome is second.outcome is Outcome.ACCEPTED
    assert (second.containment, second.missing_containment) == (first.containment, [])
