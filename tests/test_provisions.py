"""Packed compile caches: what comes out is what went in, at another place, and nobody can change it on the way."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.provisions import CACHES, new_folder, pack, sealed, unpack

NAMES = st.text("abcdefgh0123456789_", min_size=1, max_size=12)
FILES = st.dictionaries(st.tuples(st.sampled_from(sorted(CACHES.values())), NAMES, NAMES), st.binary(max_size=200), max_size=6)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder, files):
    for names, content in files.items():
        path = folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def unpacked(content, folder):
    descriptor = sealed(content)
    try:
        unpack(descriptor, folder)
    finally:
        os.close(descriptor)
    return contents(folder)


@given(files=FILES)
def test_all_files_come_out_as_they_went_in(tmp_path_factory, files):
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    write(here, files)
    assert unpacked(pack(here), there) == contents(here)


def test_only_the_caches_are_packed(tmp_path):
    write(tmp_path, {("triton", "a", "x.cubin"): b"1", ("home", "a", "secret"): b"2"})
    assert unpacked(pack(tmp_path), tmp_path / "there") == {"triton/a/x.cubin": b"1"}


def test_a_group_names_its_files_where_they_are(tmp_path):
    """Triton finds a kernel's files by a list of absolute paths."""
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {("triton", "a", "__grp__kernel.json"): f'{{"child_paths": {{"k": "{here}/triton/a/k"}}}}'.encode(),
                 ("triton", "a", "k"): b"1"})  # fmt: skip
    found = unpacked(pack(here), there)
    assert found["triton/a/__grp__kernel.json"] == f'{{"child_paths": {{"k": "{there}/triton/a/k"}}}}'.encode()
    assert found["triton/a/k"] == b"1"


def test_other_files_name_the_folder_in_as_many_bytes(tmp_path):
    """A pickle says how long its strings are. So all folders have paths of one length; what cannot be right is not there at all."""
    here, there, third = (new_folder() for _ in range(3))
    elsewhere = tmp_path / "elsewhere"
    try:
        _name_their_folders(here, there, third, elsewhere)
    finally:
        for folder in (here, there, third):
            shutil.rmtree(folder)


def _name_their_folders(here, there, third, elsewhere):
    assert len(str(here)) == len(str(there))
    write(here, {("inductor", "a", "graph"): pickle.dumps([str(here), 1]), ("inductor", "a", "plain"): b"2"})
    found = unpacked(pack(here), there)
    assert pickle.loads(found["inductor/a/graph"]) == [str(there), 1]
    assert unpacked(pack(here), elsewhere) == {"inductor/a/plain": b"2"}
    write(elsewhere, {("inductor", "a", "graph"): pickle.dumps([str(elsewhere), 1])})
    assert unpacked(pack(elsewhere), third) == {"inductor/a/plain": b"2"}


def test_a_library_can_still_be_loaded(tmp_path):
    write(tmp_path, {("triton", "a", "utils.so"): b"x"})
    (tmp_path / "triton/a/utils.so").chmod(0o755)
    unpacked(pack(tmp_path), tmp_path / "there")
    assert stat.S_IMODE((tmp_path / "there/triton/a/utils.so").stat().st_mode) == 0o755


def test_nobody_can_change_what_all_are_given():
    descriptor = sealed(b"provisions")
    try:
        for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0), lambda: os.ftruncate(descriptor, 99),
                       lambda: mmap.mmap(descriptor, 10, mmap.MAP_SHARED, mmap.PROT_WRITE | mmap.PROT_READ)):  # fmt: skip
            with pytest.raises(OSError, match="not permitted"):
                change()
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        with pytest.raises(OSError, match="not permitted"):
            os.write(again, b"x")
        os.close(again)
        assert os.pread(descriptor, 99, 0) == b"provisions"
    finally:
        os.close(descriptor)


def test_several_unpack_from_one_descriptor(tmp_path):
    write(tmp_path / "here", {("triton", "a", "x"): b"1"})
    descriptor = sealed(pack(tmp_path / "here"))
    os.lseek(descriptor, 0, os.SEEK_END)
    try:
        for name in ("one", "two"):
            unpack(descriptor, tmp_path / name)
            assert contents(tmp_path / name) == {"triton/a/x": b"1"}
    finally:
        os.close(descriptor)


def test_what_is_no_archive_leaves_the_caches_empty(tmp_path):
    assert unpacked(b"no archive" * 100, tmp_path) == {}
