"""Several processes that share the images of one command, as torchrun starts them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from segkit.core.errors import SegkitError

Item = TypeVar("Item")
LONGEST = timedelta(days=30)
"""For which the first process waits for the others at the end."""


@dataclass(frozen=True)
class Share:
    """Which of how many processes this is.

    Attributes:
        rank: Its number, from 0; the first one prints.
        count: How many there are.
        local_rank: Its number on this machine, that of its GPU.
        store: Where they tell each other how it went, None where they do not know of each other.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    store: Any = None

    @classmethod
    def join(cls) -> Share:
        """That of RANK, WORLD_SIZE and LOCAL_RANK in the environment; without them there is one.

        Raises:
            SegkitError: They are no numbers that fit.
        """
        texts = {
            "RANK": os.environ.get("RANK", "0"),
            "WORLD_SIZE": os.environ.get("WORLD_SIZE", "1"),
            "LOCAL_RANK": os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")),
        }
        numbers = [int(text) if text.isdecimal() else -1 for text in texts.values()]
        rank, count, local_rank = numbers
        if min(numbers) < 0 or rank >= count:
            said = ", ".join(f"{key}={text}" for key, text in texts.items())
            raise SegkitError(
                f"the environment says {said}, which does not fit. RANK counts from 0 to"
                " WORLD_SIZE - 1; for a single process, unset them."
            )
        store = None
        if count > 1 and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
            from torch.distributed.rendezvous import rendezvous

            store = next(iter(rendezvous("env://")))[0]
            store.set_timeout(LONGEST)
        return cls(rank, count, local_rank, store)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The part of this process; those of all are everything, each once."""
        return list(items[self.rank :: self.count])

    def device(self, device: str) -> str:
        """For ``auto`` and ``cuda`` a GPU of its own, where there are several processes."""
        if device not in ("auto", "cuda") or self.count == 1:
            return device
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return f"cuda:{self.local_rank % gpus}"
        return "cpu" if device == "auto" else device

    def gather(self, result: Any) -> list[Any]:
        """What all processes say at their end, which the first one waits for; the others only own.

        Args:
            result: Plain data.

        Raises:
            SegkitError: The first process is gone.
        """
        if self.store is None:
            return [result]
        if self.rank > 0:
            try:
                self.store.set(f"segkit/{self.rank}", json.dumps(result))
            except RuntimeError as error:
                raise SegkitError(
                    f"process {self.rank}: the first process has ended, see what it said. What is"
                    " finished stays; the same command goes on with the rest."
                ) from error
            return [result]
        others = range(1, self.count)
        return [result, *(json.loads(self.store.get(f"segkit/{rank}")) for rank in others)]
