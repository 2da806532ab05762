"""What a training runs on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.core import machine
from segkit.core.machine import GB, Machine, find_machine


def test_the_cpu_when_it_is_asked_for() -> None:
    found = find_machine("cpu")
    assert (found.device, found.has_gpu, found.devices) == ("cpu", False, 1)
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory > GB // 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # all processes of a training plan the same
    assert find_machine("cpu") == found
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("devices", "count"),
    [(1, 1), (2, 2), ("2", 2), ([0, 3], 2), ("0,1,2", 3), ("auto", 4), (-1, 4), ("-1", 4)],
)
def test_devices_in_the_words_of_lightning(
    devices: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        total_memory = 40 * GB

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    found = find_machine("gpu", devices)
    assert (found.device, found.memory, found.devices) == ("cuda", 40 * GB, count)
    assert found.speed == count * machine.SPEED["cuda"]
    assert find_machine("cpu").device == "cpu"


def test_a_container_has_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"memory.max": "3221225472\n", "cpu.max": "150000 100000\n"}
    read = Path.read_text

    def text(self: Path, *args: Any, **options: Any) -> str:
        if not str(self).startswith("/sys/fs/cgroup"):
            return read(self, *args, **options)
        if self.name not in files:
            raise FileNotFoundError(self)
        return files[self.name]

    monkeypatch.setattr(Path, "read_text", text)
    found = find_machine("cpu")
    assert (found.memory, found.cores) == (3 * GB, 1)
    files.update({"memory.max": "max\n", "cpu.max": "max 100000\n"})
    assert find_machine("cpu").cores >= 1
    files.clear()
    assert find_machine("cpu").memory > 0


def test_names() -> None:
    assert str(Machine("cpu", 24 * GB, 2)) == "2 CPU cores, 24 GB"
    assert str(Machine("cuda", 80 * GB, 16)) == "1 GPU, 80 GB"
