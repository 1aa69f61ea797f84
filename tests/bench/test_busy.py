"""Core seconds go to the kind of process that used them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from fastkernels_env.bench.busy import Busy

SPIN = "import os\nwhile sum(os.times()[:2]) < 0.5:\n    pass"


def spin(*command):
    """A child uses half a second of a core while somebody looks."""
    with Busy() as busy:
        subprocess.run(command, check=True)
    return busy.shares


def test_a_child_is_found_and_this_process_is_a_judge():
    shares = spin(sys.executable, "-c", SPIN)
    assert shares.core_seconds["others"] > 0.1
    assert "judges" in shares.core_seconds
    assert shares.cores > 0
    assert shares.gpu is None


@pytest.mark.parametrize(("name", "role"), [("cc1plus", "compilers"), ("ptxas", "compilers"), ("something", "others")])
def test_compilers_are_known_by_their_names(tmp_path, name, role):
    shell = tmp_path / name
    shutil.copyfile(shutil.which("sh"), shell)
    shell.chmod(0o700)
    loop = "i=0; while [ $i -lt 1500000 ]; do i=$((i+1)); done"
    assert spin(shell, "-c", loop).core_seconds[role] > 0.05


def test_what_a_process_used_before_is_not_counted():
    child = subprocess.Popen([sys.executable, "-c", f"{SPIN}\nprint(flush=True)\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    with Busy() as busy:
        time.sleep(0.5)
    child.communicate(b"\n")
    assert busy.shares.core_seconds["others"] < 0.1
