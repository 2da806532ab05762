"""The memory of a process: freed blocks are kept for the next ones. Imports no torch."""

from __future__ import annotations

import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, of glibc's malloc.h."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc give large freed blocks to the next ones instead of the system.

    Each step of a training frees and asks for the same large maps. The system hands every page of
    them out anew and zeroed, which was a sixth of a step on a CPU. The process then holds the
    memory of its peak until it ends; worker processes that are forked from it do so too.

    Where the environment has settings for the allocator they stay; on systems without glibc
    nothing happens.
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
