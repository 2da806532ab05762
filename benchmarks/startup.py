"""How long --help and --cfg take against an empty Hydra app: python benchmarks/startup.py

The commands take turns, so that a machine whose speed drifts slows all of them; medians of pairs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 9
EMPTY = """
import hydra


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass


main()
"""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        print(f"{'':<28}{'empty app':>10}{'segkit':>10}{'ratio':>8}")
        for flags in (["--help"], ["--cfg", "job"]):
            pairs = []
            for _ in range(ROUNDS):
                base = seconds([sys.executable, str(empty), *flags])
                resolve = ["--resolve"] if flags != ["--help"] else []
                ours = seconds([sys.executable, "-m", "segkit.train", *flags, *resolve])
                pairs.append((base, ours))
            base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            name = " ".join(["segkit.train", *flags])
            print(f"{name:<28}{base:>9.2f}s{ours:>9.2f}s{ratio:>8.2f}")


if __name__ == "__main__":
    main()
