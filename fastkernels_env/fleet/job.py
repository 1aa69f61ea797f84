"""An order on its way through a fleet."""

from __future__ import annotations

import uuid
from concurrent.futures import Future

from ..types import Evaluation


class Job:
    """An order on its way.

    Args:
        order: An `Order`, as msgpack.
        task: Archive of its task's folder, or nothing.
        ranks: How many GPUs it takes; of a host without, cores.
    """

    def __init__(self, order: bytes, task: bytes, ranks: int = 1) -> None:
        self.id, self.order, self.task, self.ranks = uuid.uuid4().hex, order, task, ranks
        self.future: Future[Evaluation] = Future()
        self.building = False
        """Whether its code is being compiled, elsewhere than where it will be judged."""
        self.built = b""
        """What came of that: a `builds.Made`, as msgpack; or nothing."""
