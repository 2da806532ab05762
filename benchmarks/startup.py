"""How long the commands take to begin: python benchmarks/startup.py

--help and --cfg against an empty Hydra app, and the first training step on the built-in data
against the imports that it cannot do without. What is compared takes turns, in both orders.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.machine import describe_machine
from harness.process import run_script
from harness.side_by_side import choose_names, make_parser, publish
from harness.timing import MeasurementError, alternate, compute_ratio, make_timer
from segkit.benchmark.results import Section
from segkit.core.errors import SegkitError

EMPTY = """
import hydra


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass


main()
"""
# The batch is done when Lightning says so; nothing is cleaned up, as that is no part of beginning.
FIRST_STEP = """
import os

from segkit.training.module import SegmentationModule

SegmentationModule.on_train_batch_end = lambda *args: os._exit(0)

from segkit.train import main

main()
"""
IMPORTS = "import torch, timm, lightning, albumentations, torchmetrics"
MOST = {"--help": 1.3, "--cfg job": 1.3}
"""Target ratios to the empty app."""


class Command:
    """A command in its own process, in a temporary folder."""

    def __init__(self, *words: str) -> None:
        self._words = [sys.executable, *words]

    def __call__(self) -> None:
        """Run it to its end."""
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                self._words,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        if done.returncode:
            raise MeasurementError(f"{' '.join(self._words[1:])} ends with {done.returncode}")


def list_cases(folder: Path) -> dict[str, dict[str, Command]]:
    """What is compared: ours first, then what it is held against."""
    empty, first = folder / "empty.py", folder / "first_step.py"
    empty.write_text(EMPTY)
    first.write_text(FIRST_STEP)
    module = ("-m", "segkit.train")
    return {
        "--help": {
            "segkit": Command(*module, "--help"),
            "empty app": Command(str(empty), "--help"),
        },
        "--cfg job": {
            "segkit": Command(*module, "--cfg", "job", "--resolve"),
            "empty app": Command(str(empty), "--cfg", "job"),
        },
        "first training step": {
            "segkit": Command(str(first), "trainer.progress_bar=false", "encoder.pretrained=false"),
            "the imports alone": Command("-c", IMPORTS),
        },
    }


def main() -> None:
    options = make_parser(str(__doc__), rounds=9, warm_up=1).parse_args()
    rows: list[dict[str, object]] = []
    raw = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = list_cases(Path(folder))
        for name in choose_names(list(cases), options.only):
            measures = {key: make_timer(run) for key, run in cases[name].items()}
            found = alternate(measures, options.rounds, options.warm_up)
            if found.failures:
                raise SegkitError("; ".join(found.failures.values()))
            (ours, own), (peer, theirs) = found.seconds.items()
            rows.append(
                {
                    "case": name,
                    "against": peer,
                    f"{ours}, s": statistics.median(own),
                    "other, s": statistics.median(theirs),
                    "ratio": str(compute_ratio(own, theirs)),
                    "at most": MOST.get(name),
                }
            )
            raw[name] = found.seconds
    title = "How long the commands take to begin"
    publish("startup", title, options, describe_machine(), [Section("", rows)], [WHAT], raw)


WHAT = (
    "Seconds of whole processes, medians; ratios are medians over the pairs of a round, with their"
    " quartiles. The first training step is that of the defaults on the built-in data: reading the"
    " config, checking the data, building the network and one step of a batch."
)

if __name__ == "__main__":
    run_script(main)
