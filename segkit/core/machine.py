"""The machine that a training is planned for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segkit.core.memory import GB, count_usable_cores, find_main_memory

SPEED = {"cpu": 60e9, "mps": 2e12, "cuda": 10e12}
"""Floating-point operations per second of a core or a device in training, roughly."""


@dataclass(frozen=True)
class Machine:
    """The resources of a training: all of them, so that every run and every process plans alike.

    Attributes:
        device: "cpu", "cuda" or "mps".
        memory: Bytes of the device's memory, or of main memory if the CPU computes.
        cores: Usable CPU cores.
        devices: Number of devices that train together.
    """

    device: str
    memory: int
    cores: int
    devices: int = 1

    @property
    def has_gpu(self) -> bool:
        """Whether something other than the CPU computes."""
        return self.device != "cpu"

    @property
    def speed(self) -> float:
        """Floating-point operations per second of all devices together, very roughly."""
        return SPEED[self.device] * (self.devices if self.has_gpu else self.cores)

    def __str__(self) -> str:
        what = "GPU" if self.has_gpu else "CPU core"
        count = self.devices if self.has_gpu else self.cores
        return f"{count} {what}{'s' if count > 1 else ''}, {self.memory / GB:.0f} GB"


def find_machine(
    accelerator: str = "auto", devices: int | str | list[int] = 1, num_nodes: int = 1
) -> Machine:
    """Find the machine that Lightning's ``accelerator``, ``devices`` and ``num_nodes`` mean."""
    cores = count_usable_cores()
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        count = _count(devices, torch.cuda.device_count())
        return Machine("cuda", memory, cores, num_nodes * count)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return Machine("mps", torch.mps.recommended_max_memory(), cores)
    return Machine("cpu", find_main_memory(), cores, num_nodes * _count(devices, 1))


def choose_precision(precision: str, accelerator: str) -> str:
    """Lightning's name of the precision that ``trainer.precision`` means on this machine."""
    if precision != "auto":
        return precision
    if find_machine(accelerator).device != "cuda":
        return "32-true"
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bfloat16 else "16-mixed"


def _count(devices: int | str | list[int], present: int) -> int:
    """Count the devices that a value of Lightning's ``devices`` means."""
    if isinstance(devices, str) and "," in devices:
        devices = [int(part) for part in devices.split(",") if part.strip()]
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return present
    return max(1, int(devices))
