"""The journal beside a log keeps every evaluation under way, however many begin and end at once."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import msgspec

from fastkernels_env.journal import Entry, Journal
from fastkernels_env.types import Context


def entry(number):
    return Entry(task="rms_norm", text=str(number), seed=number, effort="quick", context=Context(), prompt_hash="")


def test_evaluations_that_begin_and_end_at_once_are_all_kept(tmp_path):
    log = tmp_path / "log.jsonl"
    folder = tmp_path / "log.jsonl.pending"

    def hold(worker):
        journal = Journal(log)
        for number in range(150):
            with journal.hold(entry(1000 * worker + number)):
                assert str(1000 * worker + number) in texts(folder)
                assert journal.take_lost() == []

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(hold, worker) for worker in range(4)]:
            done.result()
    assert not folder.exists()


def texts(folder):
    """What the files hold that can still be read: those of others come and go."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Entry).text)
    return found
