"""What a training runs on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.core import machine
from segkit.core.machine import Machine, choose_precision, find_machine
from segkit.core.memory import GB, count_usable_cores, find_free_memory, find_main_memory


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
    assert find_machine("gpu", devices, num_nodes=3).devices == 3 * count
    assert find_machine("cpu").device == "cpu"


@pytest.mark.parametrize(
    ("given", "accelerator", "has_bfloat16", "chosen"),
    [
        ("auto", "auto", True, "bf16-mixed"),
        ("auto", "gpu", False, "16-mixed"),
        ("auto", "cpu", True, "32-true"),
        ("32-true", "auto", True, "32-true"),
    ],
)
def test_the_precision_follows_the_device(
    given: str,
    accelerator: str,
    has_bfloat16: bool,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Machine("cuda", 40 * GB, 8)
    cpu = Machine("cpu", 40 * GB, 8)
    monkeypatch.setattr(machine, "find_machine", lambda name: cpu if name == "cpu" else found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert choose_precision(given, accelerator) == chosen


def test_free_memory_is_what_the_system_calls_available(tmp_path: Path) -> None:
    assert find_free_memory(tmp_path) == find_main_memory(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 3 kB\n")
    assert find_free_memory(tmp_path) == 3 * 1024


LIMITED = {  # by the own cgroup, the files below sys/fs/cgroup, memory in GB, cores
    "v2 namespace": ("0::/", {"memory.max": 3 * GB, "cpu.max": "150000 100000"}, 3, 1),
    "v2 own group": (
        "0::/job/step",
        {"job/step/memory.max": 2 * GB, "job/memory.max": "max"},
        2,
        64,
    ),
    "v2 outer group": (
        "0::/job/step",
        {"job/step/memory.max": 4 * GB, "job/memory.max": GB, "job/cpu.max": "200000 100000"},
        1,
        2,
    ),
    "v1": (
        "5:cpu,cpuacct:/job\n4:memory:/job\n0::/init",
        {
            "memory/job/memory.limit_in_bytes": 2 * GB,
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "cpu,cpuacct/job/cpu.cfs_quota_us": 300000,
            "cpu,cpuacct/job/cpu.cfs_period_us": 100000,
        },
        2,
        3,
    ),
    "v1 container": ("4:memory:/docker/1f", {"memory/memory.limit_in_bytes": GB}, 1, 64),
    "v1 unlimited": (
        "5:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000},
        64,
        64,
    ),
    "no list of groups": (None, {"memory.max": GB}, 1, 64),
    "nothing": ("", {}, 64, 64),
}


@pytest.mark.parametrize("case", LIMITED)
def test_limits_of_control_groups(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, files, memory, cores = LIMITED[case]
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, value in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    sizes = {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 64 * GB // 1024}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert (find_main_memory(tmp_path) / GB, count_usable_cores(tmp_path)) == (memory, cores)


def test_names() -> None:
    assert str(Machine("cpu", 24 * GB, 2)) == "2 CPU cores, 24 GB"
    assert str(Machine("cuda", 80 * GB, 16)) == "1 GPU, 80 GB"
