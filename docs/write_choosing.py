"""Write the table of necks in docs/choosing.md from the registry and the networks themselves.

python docs/write_choosing.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from segkit.models.cost import gflops
from segkit.models.necks import Neck
from segkit.models.segmenter import create_model

FILE = Path(__file__).parent / "choosing.md"
ENCODER = "resnet34"
SIDE = 256
BEGIN, END = "<!-- from here written by docs/write_choosing.py -->\n", "<!-- to here -->\n"


def table() -> str:
    """A line for each neck: its paper, what it costs, and what auxiliary heads see."""
    lines = [
        "| neck | what it is | parameters, M | GFLOPs | stride | auxiliary heads |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in Neck.names():
        model = create_model({"name": ENCODER, "pretrained": False}, name)
        count = sum(p.numel() for p in model.neck.parameters()) / 1e6
        summary = (inspect.getdoc(Neck.members()[name]) or "").partition("\n\n")[0]
        cells = (
            f"`{name}`",
            " ".join(summary.rstrip(".").split()),
            f"{count:.2f}",
            f"{gflops(model, 3, (SIDE, SIDE)):.1f}",
            str(model.neck.out_stride),
            str(len(model.neck.level_channels) - 1),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with a new table."""
    before, rest = FILE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
