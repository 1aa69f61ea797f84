"""Workers of submissions start with the host's provisions in caches of their own."""

from __future__ import annotations

import os
import textwrap

import pytest

from fastkernels_env.device import open_device
from fastkernels_env.judge.errors import WorkerRaised
from fastkernels_env.judge.host import WorkerHost
from fastkernels_env.judge.provide import provide
from fastkernels_env.protocol import Load
from fastkernels_env.provisions import pack

LOOKS = """
    import os, pathlib

    found = pathlib.Path(os.environ["TRITON_CACHE_DIR"], "key", "utils")
    raise RuntimeError(f"found {found.read_text() if found.exists() else 'nothing'}")
"""
OVERWRITES = LOOKS.replace("raise", "found.write_text('poison')\n    raise")
GRASPS = """
    import os

    files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    raise RuntimeError("found " + " ".join(os.readlink(file) for file in files if os.path.islink(file)))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    host = WorkerHost(open_device("cpu"), folder)
    yield host, folder
    host.close()


@pytest.fixture
def host(started):
    """One host for all tests, without anything that an earlier one kept."""
    host, folder = started
    host.provisions.close()
    (folder / "provisions.tar").unlink(missing_ok=True)
    return host


@pytest.fixture
def provided(host, tmp_path):
    folder = tmp_path / "made" / "triton" / "key"
    folder.mkdir(parents=True)
    (folder / "utils").write_text("provisions")
    host.provisions.keep(pack(tmp_path / "made"))
    return host


def told(host, tmp_path, source, **how):
    """What a module's code says when a worker loads it."""
    path = tmp_path / "module.py"
    path.write_text(textwrap.dedent(source))
    session = host.spawn(**how)
    try:
        with pytest.raises(WorkerRaised) as raised:
            session.load(Load(str(path), "python", "nothing", (), (), False, False), 60.0)
    finally:
        session.close()
    return raised.value.summary


def test_there_is_nothing_where_nothing_was_kept(host, tmp_path):
    assert not host.provisions.present
    assert told(host, tmp_path, LOOKS).endswith("found nothing")


def test_a_submission_finds_them_in_its_cache(provided, tmp_path):
    assert provided.provisions.present
    assert told(provided, tmp_path, LOOKS).endswith("found provisions")


def test_what_one_submission_writes_no_other_reads(provided, tmp_path):
    assert told(provided, tmp_path, OVERWRITES).endswith("found poison")
    assert told(provided, tmp_path, LOOKS).endswith("found provisions")


def test_a_submission_has_no_hold_of_the_file(provided, tmp_path):
    assert "provisions" not in told(provided, tmp_path, GRASPS)


def test_what_is_kept_anew_goes_to_those_that_start_later(provided, tmp_path):
    (tmp_path / "made/triton/key/utils").write_text("newer")
    provided.provisions.keep(pack(tmp_path / "made"))
    assert told(provided, tmp_path, LOOKS).endswith("found newer")


def test_a_baseline_keeps_the_hosts_own_caches(provided, tmp_path):
    assert told(provided, tmp_path, LOOKS, trusted=True).endswith("found nothing")


def test_another_judge_of_the_host_has_them_too(provided, started, tmp_path):
    other = WorkerHost(open_device("cpu"), started[1])
    try:
        assert told(other, tmp_path, LOOKS).endswith("found provisions")
    finally:
        other.close()


def test_no_descriptor_is_left(provided, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    told(provided, tmp_path, LOOKS)
    provided.provisions.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_cpu_host_makes_none(host):
    provide(host)
    assert not host.provisions.present
