"""The memory and the cores that this process may use. No torch: exported networks run without it.

Containers and job schedulers limit both by control groups, of version 1 or 2. A group's limits hold
for the groups below it too, so the smallest one counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GB = 1024**3
UNKNOWN_MEMORY = 8 * GB
"""Assumed if the system does not say."""
BYTES_PER_PIXEL = 16
"""Of free memory, which an image that is decoded takes at most: four channels of 32 bits."""

_MAX_PIXELS = "SEGKIT_MAX_PIXELS"


def find_main_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine, or of the smallest control group of this process."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        installed = UNKNOWN_MEMORY
    limits = [_read_number(group / "memory.max") for group in _list_own_groups("", root)]
    limits += [_read_number(g / "memory.limit_in_bytes") for g in _list_own_groups("memory", root)]
    return int(min([installed, *(limit for limit in limits if limit)]))


def find_free_memory(root: Path = Path("/")) -> int:
    """Bytes that nothing on the machine uses, at most those of :func:`find_main_memory`."""
    most = find_main_memory(root)
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return most
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([most, *free])


def limit_pixels(limit: int | None) -> None:
    """Set the size of images that may be decoded at once; None: what free memory holds.

    It is kept in the environment, so that all processes that are started later have it too.
    """
    os.environ[_MAX_PIXELS] = str(limit or find_free_memory() // BYTES_PER_PIXEL)


def find_max_pixels() -> int:
    """Height x width of the largest image that may be decoded at once."""
    if _MAX_PIXELS not in os.environ:
        limit_pixels(None)
    return int(os.environ[_MAX_PIXELS])


def count_usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by its affinity and its control groups."""
    # not torch's threads: a worker has fewer
    affinity = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0))
    cores = affinity or os.cpu_count() or 1
    quotas = [
        (_read_number(group / "cpu.max"), _read_number(group / "cpu.max", 1))
        for group in _list_own_groups("", root)
    ]
    quotas += [
        (_read_number(group / "cpu.cfs_quota_us"), _read_number(group / "cpu.cfs_period_us"))
        for group in _list_own_groups("cpu", root)
    ]
    limits = [int(quota / period) for quota, period in quotas if quota and period and quota > 0]
    return max(1, min([cores, *limits]))


def _list_own_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of the groups around it.

    A container may see its own group as the outermost one, under another path than the kernel
    names; folders that do not exist are therefore harmless.

    The controller is one of version 1, or "" for version 2.
    """
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = [f"0:{controller}:/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        parts = [] if ".." in path else [part for part in path.split("/") if part]
        for place in dict.fromkeys([controllers, controller]):
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(place, *parts[:depth])


def _read_number(file: Path, position: int = 0) -> float | None:
    """A number in a file of a control group; None if there is none, or "max"."""
    try:
        return float(file.read_text().split()[position])
    except (OSError, ValueError, IndexError):
        return None
