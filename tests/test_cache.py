"""What a host remembers between runs."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from fastkernels_env.cache import HostCache, HostRecord, cache_root, write_atomically
from fastkernels_env.types import DeviceInfo, Peaks

INFO = DeviceInfo(kind="cpu", name="a processor", cores=2)
PEAKS = Peaks(copy_bytes_per_s=1e10, flops_per_s={"float32": 1e11})
RECORD = HostRecord(device="a processor", peaks=PEAKS, warmed={"t": {"eager": "used"}})


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("FASTKERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "fastkernels_env"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "fastkernels_env"


def test_at_first_there_is_nothing(root):
    assert HostCache(INFO, {"torch": "1"}).load() is None
    assert [path.name.partition("-")[0] for path in root.iterdir()] == ["cpu"]


def test_a_record_comes_back(root):
    HostCache(INFO, {"torch": "1"}).save(RECORD)
    assert HostCache(INFO, {"torch": "1"}).load() == RECORD


@pytest.mark.parametrize(
    ("info", "versions"),
    [
        (INFO, {"torch": "2"}), (INFO, {"torch": "1", "triton": "1"}), (DeviceInfo(kind="cpu", name="another", cores=2), {"torch": "1"}),
        (DeviceInfo(kind="cpu", name="a processor", cores=4), {"torch": "1"}),
        (DeviceInfo(kind="cuda", name="a processor", cores=2), {"torch": "1"}),
    ],
)  # fmt: skip
def test_another_device_or_version_starts_anew(root, info, versions):
    HostCache(INFO, {"torch": "1"}).save(RECORD)
    assert HostCache(info, versions).load() is None


def test_the_clock_of_the_moment_is_no_part_of_the_key(root):
    HostCache(INFO, {}).save(RECORD)
    assert HostCache(DeviceInfo(kind="cpu", name="a processor", cores=2, clocks={"mhz": 1234.0}), {}).load() == RECORD


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"device": 3}', b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_none(root, content):
    cache = HostCache(INFO, {})
    cache.save(RECORD)
    (cache.folder / "host.json").write_bytes(content)
    assert cache.load() is None
    cache.save(RECORD)
    assert cache.load() == RECORD


def test_saving_leaves_one_file(root):
    cache = HostCache(INFO, {})
    for _ in range(3):
        cache.save(RECORD)
    assert [path.name for path in cache.folder.iterdir()] == ["host.json"]


def test_where_nothing_can_be_written_a_temporary_folder_serves(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTKERNELS_CACHE", str(tmp_path / "file"))
    cache = HostCache(INFO, {})
    assert not cache.folder.is_relative_to(tmp_path / "file")
    cache.save(RECORD)
    assert cache.load() == RECORD
    os.remove(cache.folder / "host.json")
    cache.folder.rmdir()


def test_a_folder_that_disappeared_costs_the_record_only(root):
    cache = HostCache(INFO, {})
    cache.folder.rmdir()
    cache.save(RECORD)
    assert cache.load() is None
    assert stat.S_ISDIR(Path(root).stat().st_mode)


def test_a_file_that_cannot_be_written_is_as_it_was_and_leaves_nothing(tmp_path):
    path = tmp_path / "kept"
    write_atomically(path, b"before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        write_atomically(path, b"after" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
