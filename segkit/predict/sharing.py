"""Several processes that share the images of one command, as torchrun starts them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

from segkit.core.errors import SegkitError

Item = TypeVar("Item")
BEAT = 10.0
"""Seconds between two signs of life."""
SILENCE = 300.0
"""Seconds without a sign of life after which a process counts as dead."""


@dataclass(frozen=True)
class Share:
    """This process among those that share a command.

    Attributes:
        rank: Its number, from 0; the first one prints.
        count: Number of processes.
        local_rank: Its number on this machine, that of its GPU.
        store: Where they exchange results, None if they do not know each other.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    store: Any = None

    @classmethod
    def join(cls) -> Share:
        """Read RANK, WORLD_SIZE and LOCAL_RANK of the environment; without them there is one.

        Raises:
            SegkitError: They are not numbers, or do not fit each other.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = {name: os.environ[name] for name in names if name in os.environ}
        numbers = {name: int(text) for name, text in given.items() if text.isdecimal()}
        rank, count = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
        if len(numbers) < len(given) or rank >= count:
            raise SegkitError(
                f"the environment has {', '.join(f'{k}={given[k]}' for k in given)}, which does not"
                " fit. RANK counts from 0 to WORLD_SIZE - 1; unset them for a single process."
            )
        store = None
        if count > 1 and os.environ.keys() >= {"MASTER_ADDR", "MASTER_PORT"}:
            from torch.distributed.rendezvous import rendezvous

            store = next(iter(rendezvous("env://")))[0]
        share = cls(rank, count, numbers.get("LOCAL_RANK", rank), store)
        if store is not None and rank > 0:
            threading.Thread(target=share.give_signs_of_life, daemon=True).start()
        return share

    def give_signs_of_life(self) -> None:
        """Count up in the store every few seconds until the first process ends."""
        with suppress(RuntimeError):
            while True:
                self.store.add(f"segkit/alive/{self.rank}", 1)
                time.sleep(BEAT)

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """Pick the items of this process; each item belongs to one process."""
        return list(items[self.rank :: self.count])

    def choose_device(self, device: str) -> str:
        """Choose the device of this process: for ``auto`` and ``cuda`` its own GPU."""
        if device not in ("auto", "cuda") or self.count == 1:
            return device
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return f"cuda:{self.local_rank % gpus}"
        return "cpu" if device == "auto" else device

    def gather(self, problems: list[str]) -> list[str]:
        """Join the problems of all processes in the first one; the others get only their own.

        Raises:
            SegkitError: The first process has ended, or another one has died.
        """
        if self.store is None:
            return problems
        if self.rank == 0:
            others = (json.loads(self._wait_for(rank)) for rank in range(1, self.count))
            return [*problems, *chain.from_iterable(others)]
        try:
            self.store.set(f"segkit/{self.rank}", json.dumps(problems))
        except RuntimeError as error:
            raise SegkitError(
                f"process {self.rank}: the first process has ended, see its message. Finished"
                " images stay; the same command continues with the rest."
            ) from error
        return problems

    def _wait_for(self, rank: int) -> bytes:
        """Wait for the result of a process as long as it gives signs of life."""
        beats, since = -1, time.monotonic()
        while True:
            with suppress(RuntimeError):  # not yet
                self.store.wait([f"segkit/{rank}"], timedelta(seconds=BEAT))
                result: bytes = self.store.get(f"segkit/{rank}")
                return result
            now = self.store.add(f"segkit/alive/{rank}", 0)
            if now != beats:
                beats, since = now, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                raise SegkitError(
                    f"process {rank} has died without a message. Finished images stay; the same"
                    " command continues with the rest."
                )
