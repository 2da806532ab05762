"""Reuse of freed memory. Imports no torch."""

from __future__ import annotations

import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, of glibc's malloc.h."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning them to the system.

    Each training step allocates and frees the same large maps. Getting zeroed pages from the system
    took a sixth of a step on a CPU. The price: the process, and workers forked from it, keep their
    peak memory until they end.

    Allocator settings in the environment take precedence; without glibc nothing happens.
    """
    given = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    if given or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    if not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return
    import ctypes  # not for --help and --cfg

    allocator = ctypes.CDLL(None)
    allocator.mallopt(_MMAP_THRESHOLD, _NEVER)
    allocator.mallopt(_TRIM_THRESHOLD, _NEVER)
