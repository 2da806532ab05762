"""Freed memory that stays with the process."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from segkit.core.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
block = bytearray(64 * 2**20)
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    block = bytearray(64 * 2**20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print("torch" in sys.modules)
"""
ON_GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


def faults(keep: bool, **environment: str) -> int:
    """Pages that the system had to give for a block that is freed and asked for again."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, "keep" if keep else "leave"],
        env={k: v for k, v in os.environ.items() if "MALLOC" not in k} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    count, torch = run.stdout.split()
    assert torch == "False"
    return int(count)


@pytest.mark.skipif(not ON_GLIBC, reason="another allocator than glibc's")
def test_large_blocks_are_given_out_again_without_the_system() -> None:
    kept = faults(keep=True)
    assert kept < faults(keep=False) / 8
    assert faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072") > 8 * kept
