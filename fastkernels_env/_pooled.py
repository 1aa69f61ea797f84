"""One evaluation on its way through a pool: a judge that dies over it is replaced, and the reply judged again, the second time alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import msgspec

from ._draft import ended
from .journal import Entry
from .pool.base import HostLost, JudgeLost, Pool
from .pool.quarantine import Quarantine
from .task import Task
from .types import Evaluation, Outcome

_MOST_DEATHS = 2
"""Judges that may die over a reply before it is judged with no other evaluation beside it."""
_MOST_MOVES = 6
"""Hosts that may be lost over one reply before it is given up."""
_RIGHT = (Outcome.ACCEPTED, Outcome.UNMEASURED)
DIED = "the judge's own process was killed while it judged this reply"
ALONE = "then it was judged with no other evaluation beside it"


class Pooled:
    """Hands an entry to a pool until there is a record.

    Args:
        pool: Judges.
        task: The entry's task.
        entry: The reply.
        healthy: A reply with a trusted implementation, which says whether the device is in order; None if there is none.
        quarantine: Replies that are judged alone.
        finish: Turns the record into what the caller gets (rewards, log).

    Attributes:
        future: The finished record, to come. Cancelling it takes the entry back.
    """

    def __init__(
        self, pool: Pool, task: Task, entry: Entry, healthy: str | None, quarantine: Quarantine,
        finish: Callable[[Evaluation], Evaluation],
    ) -> None:
        self._pool, self._task, self._entry, self._healthy, self._finish = pool, task, entry, healthy, finish
        self._quarantine = quarantine
        self._faults: list[str] = []
        self._deaths = self._moves = 0
        self._probed = False
        self._inner: Future[Evaluation] | None = None
        self.future: Future[Evaluation] = Future()
        self.future.add_done_callback(self._take_back)
        self._hand_in(entry, self._answered)

    def _hand_in(self, entry: Entry, then: Callable[[Future[Evaluation]], None]) -> None:
        self._alone = entry in self._quarantine
        self._inner = self._pool.submit(entry, alone=self._alone)
        self._inner.add_done_callback(then)

    def _hand_in_again(self, entry: Entry, then: Callable[[Future[Evaluation]], None]) -> None:
        """The same where nobody is there to whom an error could be raised."""
        try:
            self._hand_in(entry, then)
        except Exception as error:
            self._fail(error)

    def _take_back(self, future: Future[Evaluation]) -> None:
        if future.cancelled() and self._inner is not None:
            self._pool.take_back(self._inner)

    def _answered(self, inner: Future[Evaluation]) -> None:
        try:
            evaluation = inner.result()
        except JudgeLost:
            self._lost()
        except HostLost as error:
            self._moved(str(error))
        except (Exception, CancelledError) as error:
            self._fail(error)
        else:
            evaluation = msgspec.structs.replace(evaluation, text=self._entry.text, faults=[*self._faults, *evaluation.faults])
            self._complete(evaluation)

    def _lost(self) -> None:
        """Twice may be an accident, or another reply's doing. Alone it is this one's, if a trusted implementation fares better."""
        self._faults.append(DIED)
        self._deaths += 1
        if not self._alone:
            if self._deaths >= _MOST_DEATHS:
                self._quarantine.add(self._entry)
                self._faults.append(ALONE)
            self._hand_in_again(self._entry, self._answered)
        elif self._healthy is not None:
            self._ask_baseline()
        else:
            self._complete(self._record(Outcome.FAULT, DIED))

    def _moved(self, why: str) -> None:
        """The reply goes to another host; it has nothing to do with what became of this one."""
        self._faults.append(why)
        self._moves += 1
        if self._moves < _MOST_MOVES:
            self._hand_in_again(self._entry, self._answered)
        else:
            self._complete(self._record(Outcome.FAULT, why))

    def _ask_baseline(self) -> None:
        assert self._healthy is not None
        self._hand_in_again(msgspec.structs.replace(self._entry, text=self._healthy), self._blame)

    def _blame(self, probe: Future[Evaluation]) -> None:
        right = False
        with contextlib.suppress(Exception, CancelledError):  # then nobody knows whether the device is in order
            right = probe.result().outcome in _RIGHT
        if right:
            why = f"it broke the judge alone too, and a baseline on the same inputs did not: {DIED}"
            self._complete(self._record(Outcome.CRASHED, why))
        elif not self._probed and not self.future.cancelled():
            self._probed = True  # its judge, its worker or its host was lost by chance, maybe
            self._ask_baseline()
        else:
            self._complete(self._record(Outcome.FAULT, DIED))

    def _record(self, outcome: Outcome, reason: str) -> Evaluation:
        return ended(self._pool.device, self._task, self._entry, outcome, reason, self._faults[:-1])

    def _complete(self, evaluation: Evaluation) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._finish(evaluation))
            except Exception as error:
                self.future.set_exception(error)

    def _fail(self, error: BaseException) -> None:
        if not self.future.cancelled() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
