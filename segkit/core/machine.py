"""The machine that a training is planned for."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from segkit.core.memory import GB as GB
from segkit.core.memory import first_number, main_memory

SPEED = {"cpu": 60e9, "mps": 2e12, "cuda": 10e12}
"""Floating-point operations a second of a core or a device in training, to the order of magnitude:
slower than they can, faster than a bad day."""


@dataclass(frozen=True)
class Machine:
    """What a training has to itself; all of it, so that every run and every process plans the same.

    Attributes:
        device: "cpu", "cuda" or "mps".
        memory: Bytes of the device's memory, or of the main memory where the CPU computes.
        cores: Cores that compute.
        devices: Devices that train together.
    """

    device: str
    memory: int
    cores: int
    devices: int = 1

    @property
    def has_gpu(self) -> bool:
        """Whether something faster than the CPU computes."""
        return self.device != "cpu"

    @property
    def speed(self) -> float:
        """Floating-point operations a second, very roughly, of all devices together."""
        return SPEED[self.device] * (self.devices if self.has_gpu else self.cores)

    def __str__(self) -> str:
        what = "GPU" if self.has_gpu else "CPU core"
        count = self.devices if self.has_gpu else self.cores
        return f"{count} {what}{'s' if count > 1 else ''}, {self.memory / GB:.0f} GB"


def find_machine(accelerator: str = "auto", devices: int | str | list[int] = 1) -> Machine:
    """The machine that a training runs on, from Lightning's ``accelerator`` and ``devices``."""
    cores = usable_cores()
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine("cuda", memory, cores, _count(devices, torch.cuda.device_count()))
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return Machine("mps", torch.mps.recommended_max_memory(), cores)
    return Machine("cpu", main_memory(), cores, _count(devices, 1))


def usable_cores() -> int:
    """Cores that this process may keep busy: of its affinity, and of its container's quota."""
    return min(_cores(), _quota_of_cores())


def free_memory(device: torch.device) -> int:
    """Bytes that a GPU has left; of the main memory all of it, which caches fill anyway."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return main_memory()


def _count(devices: int | str | list[int], present: int) -> int:
    """How many devices are meant, in Lightning's way of saying it."""
    if isinstance(devices, str) and "," in devices:
        devices = [int(part) for part in devices.split(",") if part.strip()]
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return present
    return max(1, int(devices))


def _cores() -> int:
    """Cores that this process may run on; not torch's threads, which are fewer in a worker."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_of_cores() -> int:
    """Cores that a container may use, at least one; many where nothing limits it."""
    quota, period = first_number("cpu.max"), first_number("cpu.max", 1)
    return max(1, int(quota / period)) if quota and period else 2**16
