"""Several processes that share one command, as torchrun and srun start them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar

from segkit.core.errors import SegkitError

Item = TypeVar("Item")
ARRIVAL = timedelta(minutes=10)
"""Time in which all processes must have started."""
WORK = timedelta(days=30)
"""Time in which all processes must have finished; dead ones are noticed at once."""
_agreed = itertools.count()


@dataclass(frozen=True)
class Share:
    """This process among those that share a command.

    Attributes:
        rank: Its number, from 0; the first one prints.
        count: Number of processes.
        local_rank: Its number on this machine, that of its GPU.
        nodes: Number of machines.
        store: Where they exchange results, None if they do not know each other.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    nodes: int = 1
    store: Any = None

    @classmethod
    def join(cls, needs_others: bool = False) -> Share:
        """Read what torchrun or srun says; without RANK, or in a step of one task, there is one.

        Raises:
            SegkitError: The numbers do not fit each other, other processes do not come, or their
                address is needed and missing.
        """
        _translate_srun()
        if "RANK" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE")
        given = {name: os.environ[name] for name in names if name in os.environ}
        numbers = {name: int(text) for name, text in given.items() if text.isdecimal()}
        rank, count = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
        if len(numbers) < len(given) or rank >= count:
            raise SegkitError(
                f"the environment has {', '.join(f'{k}={given[k]}' for k in given)}, which does not"
                " fit. RANK counts from 0 to WORLD_SIZE - 1; unset them for a single process."
            )
        knows_others = count > 1 and os.environ.keys() >= {"MASTER_ADDR", "MASTER_PORT"}
        if needs_others and count > 1 and not knows_others:
            raise SegkitError(
                f"WORLD_SIZE is {count}, and without MASTER_ADDR and MASTER_PORT the processes do"
                " not find each other: start them with torchrun or srun."
            )
        return cls(
            rank,
            count,
            numbers.get("LOCAL_RANK", rank),
            numbers.get("GROUP_WORLD_SIZE", 1),
            _open_store(rank, count) if knows_others else None,
        )

    def pick(self, items: Sequence[Item]) -> Sequence[Item]:
        """Pick the items of this process; each item belongs to one process."""
        return items[self.rank :: self.count]

    def choose_device(self, device: str) -> str:
        """Choose the device of this process: for ``auto`` and ``cuda`` its own GPU."""
        if device not in ("auto", "cuda") or self.count == 1:
            return device
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return f"cuda:{self.local_rank % gpus}"
        return "cpu" if device == "auto" else device

    def agree(self, choose: Callable[[], str]) -> str:
        """What the first process chooses; the others wait for it and do not choose."""
        if self.store is None:
            return choose()
        key = f"segkit/agreed/{next(_agreed)}"
        if self.rank == 0:
            self.store.set(key, choose())
        chosen: bytes = self.store.get(key)
        return chosen.decode()

    def connect(self) -> None:
        """Connect the processes, so that :meth:`gather` notices those that die from now on."""
        if self.store is not None:
            from torch import distributed
            from torch.distributed.distributed_c10d import PrefixStore

            store = PrefixStore("segkit", self.store)
            with _explain_loss():
                distributed.init_process_group(
                    "gloo", store=store, rank=self.rank, world_size=self.count, timeout=WORK
                )

    def gather(self, value: Item) -> list[Item]:
        """The values of all processes in the first one; the others get only their own.

        It ends the connection.

        Raises:
            SegkitError: Another process has died.
        """
        if self.store is None:
            return [value]
        from torch import distributed

        found: list[Any] | None = [None] * self.count if self.rank == 0 else None
        with _explain_loss():
            distributed.gather_object(value, found)
            distributed.destroy_process_group()
        return found or [value]


def is_said(text: str) -> bool:
    """Whether another process of this command has said the same, so that one of them is enough."""
    with suppress(SegkitError, RuntimeError):  # the process that keeps the store may have ended
        store, key = Share.join().store, sha256(text.encode()).hexdigest()  # keys have a limit
        return store is not None and store.add(f"segkit/said/{key}", 1) > 1
    return False


def find_idle_tasks() -> str | None:
    """Say so if this process was started without srun in a Slurm job of several tasks."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks == "1" or os.environ.keys() & {"RANK", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS"}:
        return None
    return (
        f"this Slurm job has {tasks} tasks, and the command was started once, without srun: it"
        " runs as one process. With srun before it, each task takes its share."
    )


def _translate_srun() -> None:
    """Say in torchrun's words, which torch and Lightning know, what srun says to a step's tasks."""
    env = os.environ
    if "RANK" in env or env.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = env.get("SLURM_STEP_NODELIST", "127.0.0.1")
    env.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    # steps and jobs that share a machine take different ones
    port = int(env.get("SLURM_JOB_ID", "0")) + 997 * int(env.get("SLURM_STEP_ID", "0"))
    env.setdefault("MASTER_PORT", str(15000 + port % 10000))
    for name, of_srun in {
        "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
        "RANK": "SLURM_PROCID",
        "LOCAL_RANK": "SLURM_LOCALID",
        "GROUP_RANK": "SLURM_NODEID",
        "GROUP_WORLD_SIZE": "SLURM_STEP_NUM_NODES",
    }.items():
        if of_srun in env:
            env[name] = env[of_srun]


@cache
def _open_store(rank: int, count: int) -> Any:
    from torch.distributed.rendezvous import rendezvous

    try:
        return next(iter(rendezvous("env://", rank, count, timeout=ARRIVAL)))[0]
    except RuntimeError as error:
        raise SegkitError(
            f"process {rank} of {count} has not met the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}: {str(error).partition(chr(10))[0]}. All of them must be"
            " started, and reach that address; MASTER_ADDR and MASTER_PORT name another one."
        ) from error


@contextmanager
def _explain_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise SegkitError(
            "another process of this command has ended; see what it said above. Start the command"
            " again: what a prediction has finished stays."
        ) from error
