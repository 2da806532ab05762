"""Write the tables in docs/choosing.md from the registries and the networks themselves.

python docs/write_choosing.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import timm
import yaml

from segkit.models.cost import gflops
from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter, create_model

FILE = Path(__file__).parent / "choosing.md"
ENCODER = "resnet34"
TIMES = FILE.parents[1] / "benchmarks" / "results" / "encoders.json"
"""What ``python -m segkit.benchmark`` found for all encoders with ``necks=[linear]``."""
SIDE = 256
MORE = (
    *("resnet26d", "resnext50_32x4d", "regnety_008", "efficientnet_b3", "tf_efficientnetv2_s"),
    *("convnextv2_nano", "edgenext_small", "fastvit_t8", "repvit_m1", "pvt_v2_b1"),
    *("vit_tiny_patch16_224", "vit_base_patch14_dinov2", "maxvit_tiny_tf_224"),
)
"""Encoders of timm without a preset."""


def list_encoders() -> str:
    """A line for each preset, and for some other backbones of timm."""
    lines = [
        "| encoder | of timm | parameters, M | GFLOPs | predict, ms | train, ms | strides"
        " | licence of the weights |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    files = sorted((Path(__file__).parents[1] / "conf" / "encoder").glob("*.yaml"))
    presets = {path.stem: yaml.safe_load(path.read_text())["name"] for path in files}
    del presets["timm"]
    rows = json.loads(TIMES.read_text(encoding="utf-8"))["rows"]
    times = {row["encoder"].split()[0]: row for row in rows}
    names = [(f"`{preset}`", name) for preset, name in presets.items()]
    for shown, name in [*names, *(("", name) for name in MORE)]:
        options = {"pretrained": False} if name != "unet" else {}
        model = create_model({"name": name, **options, **sized(name)}, "linear").to("meta")
        known = timm.is_model(name)
        config = timm.get_pretrained_cfg(name) if known else None
        cells = (
            shown,
            f"`{name}`" if known else "",
            f"{sum(p.numel() for p in model.encoder.parameters()) / 1e6:.1f}",
            f"{gflops(model, 3, (SIDE, SIDE)):.1f}",
            *(f"{times[name][key]:.0f}" for key in ("predict ms", "train ms")),
            ", ".join(map(str, model.encoder.strides)),
            (config and config.license) or "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sized(name: str) -> dict[str, int]:
    """Backbones of one size are built for the image that is counted."""
    return {"img_size": SIDE} if timm.is_model(name) else {}


def list_necks() -> str:
    """A line for each neck: its paper, what it costs, and what auxiliary heads see."""
    lines = [
        "| neck | what it is | parameters, M | GFLOPs | stride | auxiliary heads |",
        "|---|---|---:|---:|---:|---:|",
    ]
    encoder = Encoder.build(ENCODER, pretrained=False)
    for name in Neck.names():
        neck = Neck.build(name, channels=encoder.channels, strides=encoder.strides)
        head = Head.build("binary", in_channels=neck.out_channels)
        model = Segmenter(encoder, neck, head).to("meta")
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


def replace(page: str, name: str, table: str) -> str:
    """The page with another table between the marks of that name."""
    begin, end = f"<!-- {name}: docs/write_choosing.py -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.split(begin)
    return before + begin + table + end + rest.split(end)[1]


if __name__ == "__main__":
    text = FILE.read_text(encoding="utf-8")
    text = replace(text, "necks", list_necks())
    FILE.write_text(replace(text, "encoders", list_encoders()), encoding="utf-8")
