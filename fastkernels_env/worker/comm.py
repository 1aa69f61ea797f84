"""What the ranks of a multi-GPU task reach each other through: the last argument of their entry."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from .memory import Arena

RESERVED = 4096
"""Bytes at the end of every part of the workspace that belong to `fk::Comm::barrier`."""
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
_LIMIT = datetime.timedelta(seconds=60)


class Comm:
    """A group of ranks, and memory that each of them reaches.

    Attributes:
        rank: Number of this process, from 0 on.
        world_size: How many there are.
        group: The process group (NCCL, on CPU hosts gloo), which is also the default one.
        peers: By rank, its part of the workspace: uint8 ``[bytes]``. It holds zeros at first, and keeps what is written between calls.
    """

    def __init__(self, device: str, rank: int, parts: Sequence[Arena]) -> None:
        self.rank, self.world_size = rank, len(parts)
        self._parts = tuple(parts)
        self.peers = tuple(part.view[:-RESERVED] for part in parts)
        store = torch._C._distributed_c10d.FileStore(os.path.abspath("ranks"), self.world_size)
        own: dict[str, Any] = {"device_id": torch.device("cuda", rank)} if device == "cuda" else {}
        dist.init_process_group(_BACKENDS[device], store=store, rank=rank, world_size=self.world_size, timeout=_LIMIT, **own)
        self.group = dist.group.WORLD

    def native(self) -> torch.Tensor:
        """What native code gets: int64 on the host, ``[rank, world_size, bytes, address of each peer's part, ...]``."""
        addresses = [part.view.data_ptr() for part in self._parts]
        return torch.tensor([self.rank, self.world_size, self.peers[0].numel(), *addresses], dtype=torch.int64)
