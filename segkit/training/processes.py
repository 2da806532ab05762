"""What the processes of one training agree on: they stop together, with one message."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import distributed


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process. All must call it at the same point."""
    if not distributed.is_initialized():
        return flag
    flags = torch.tensor([flag], dtype=torch.uint8)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=_group())
    return bool(flags)


def first_message(message: str | None) -> str | None:
    """Return the message of the first process that has one. All must call it at the same point."""
    if not distributed.is_initialized() or not any_process(message is not None):
        return message
    messages: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(messages, message, group=_group())
    return next((each for each in messages if each is not None), None)


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether the error says that another process is gone, or has not answered."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


@cache
def _group() -> Any:
    """Talk between CPUs, so that no process waits for its GPU."""
    return distributed.new_group(backend="gloo")
