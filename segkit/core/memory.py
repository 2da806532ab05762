"""The memory of the machine. No torch: exported networks are run without it."""

from __future__ import annotations

import os
from pathlib import Path

GB = 1024**3
UNKNOWN_MEMORY = 8 * GB
"""What is reckoned with where the system does not tell."""


def main_memory() -> int:
    """Bytes of the machine, or of the container that runs this."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        installed = UNKNOWN_MEMORY
    limits = [first_number(p) for p in ("memory.max", "memory/memory.limit_in_bytes")]
    return int(min([installed, *(limit for limit in limits if limit)]))


def first_number(name: str, position: int = 0) -> float | None:
    """A number of a file of the control groups; None where there is none, or "max"."""
    try:
        return float(Path("/sys/fs/cgroup", name).read_text().split()[position])
    except (OSError, ValueError, IndexError):
        return None
