"""A machine with a GPU against the peers, in six minutes: PYTHONPATH=. python benchmarks/gpu.py

Parts follow one another, each with its own time limit. After each of them the results are written,
so that a run that is cut off leaves what it has measured. Peers that are not installed are left
out. ``--device cpu --tiny`` runs all of it in small sizes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import networks as smp_networks
from harness.machine import describe_machine
from harness.networks import predict, train
from harness.process import Candidate, Measured, Spec, measure, run_script
from harness.side_by_side import FOLDER
from harness.timing import compute_ratio
from segkit.benchmark.networks import build_network, make_bare_card, use_precision
from segkit.benchmark.results import Section, format_cell, write_results
from segkit.core.errors import SegkitError
from segkit.core.files import make_folder
from segkit.data.sources.cells import draw
from segkit.images.writing import write_image, write_mask
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.losses.base import build_typical_loss
from segkit.report.table import read_csv

SECONDS = 360.0
"""What the whole script may take."""
NUCLEI = (256, 256), (256, 320), (520, 696)
"""Sizes of the images of DSB 2018."""
WAITED = re.compile(r"waited (\d+)% of the time")


class Size(NamedTuple):
    """How much is computed: as users do, or as little as shows that it runs."""

    batch: int
    side: int
    rounds: int
    large: int
    many: int
    tile: int
    images: tuple[int, int]
    training: int
    encoder: str


USUAL = Size(16, 512, 10, 8192, 128, 1024, (433, 108), 25, "resnet18")
TINY = Size(2, 64, 1, 128, 4, 64, (6, 3), 4, "resnet18")
Rows = list[dict[str, object]]


class Part(NamedTuple):
    """Something to measure: its title, the seconds it may take, and what returns its rows."""

    title: str
    limit: float
    run: Callable[[float], Rows]


def prepare_loss(who: str, device: str, batch: int, side: int, classes: int) -> Candidate:
    """Dice and cross-entropy with their gradient, of a batch of logits."""
    mode = "binary" if classes == 1 else "multiclass"
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, side, side, device=device, requires_grad=True)
    target = torch.randint(0, max(2, classes), (batch, side, side), device=device)
    compute: Callable[[], Any]
    if who == "segkit":
        loss = build_typical_loss(mode, queries=False)
        compute = partial(loss, logits, target)
    else:
        from segmentation_models_pytorch.losses import DiceLoss, SoftBCEWithLogitsLoss

        dice = DiceLoss(mode)
        if mode == "binary":
            real, pixels = target.unsqueeze(1).float(), SoftBCEWithLogitsLoss()
            compute = lambda: dice(logits, real) + pixels(logits, real)  # noqa: E731 - a closure
        else:
            plain = torch.nn.functional.cross_entropy
            compute = lambda: dice(logits, target) + plain(logits, target)  # noqa: E731 - a closure

    def run() -> None:
        logits.grad = None
        torch.autograd.backward(compute())

    return Candidate(run, device=device)


def prepare_images(
    who: str, device: str, encoder: str, neck: str, side: int, count: int, tile: int
) -> Candidate:
    """From ``count`` images of 8 bits in memory to their labels in memory."""
    torch.manual_seed(0)
    model = build_network({"name": encoder}, {"name": neck}, 3, 1, tile).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]
    if who == "segkit":
        card = make_bare_card(model, tile, "uint8", 255.0)
        predictor = Predictor(TorchNetwork(model, card, device))
        return Candidate(lambda: predictor(images), device=device)
    network = model.to(device, memory_format=torch.channels_last)
    half = "bfloat16" if device.startswith("cuda") else "float32"

    def logits(batch: torch.Tensor) -> torch.Tensor:
        return network(batch.contiguous(memory_format=torch.channels_last))

    def give(part: list[Any]) -> torch.Tensor:
        batch = torch.from_numpy(np.stack(part)).to(device)
        return batch.permute(0, 3, 1, 2).float().div_(255)

    def run_loop() -> None:
        with torch.inference_mode(), use_precision(device, half):
            for at in range(0, count, 32):
                (logits(give(images[at : at + 32])) > 0).to(torch.uint8).cpu()

    def run_monai() -> None:
        from monai.inferers import sliding_window_inference

        with torch.inference_mode(), use_precision(device, half):
            for image in images:
                maps = sliding_window_inference(
                    give([image]), (tile, tile), 4, logits, overlap=0.25, mode="gaussian"
                )
                (maps > 0).to(torch.uint8).cpu()

    return Candidate(run_monai if who == "monai" else run_loop, device=device)


def list_parts(options: argparse.Namespace, size: Size, folder: Path) -> list[Part]:
    """All parts, the most wanted first."""
    device, rounds = options.device, size.rounds
    given = {"batch": size.batch, "side": size.side, "device": device}
    peers = importlib.util.find_spec("segmentation_models_pytorch") is not None
    monai = importlib.util.find_spec("monai") is not None

    def compare(specs: Mapping[str, Spec], limit: float) -> Rows:
        shown = {name: spec for name, spec in specs.items() if peers or "smp" not in name}
        shown = {name: spec for name, spec in shown.items() if monai or "monai" not in name}
        return [make_row(measure(shown, rounds, warm_up=min(3, rounds), timeout=limit))]

    def training(encoder: str, neck: str, dtype: str) -> Part:
        own = {"encoder": {"name": encoder}, "neck": smp_networks.EQUAL[neck], **given}
        smp = {"architecture": neck, "encoder": encoder, "best": True, "dtype": dtype, **given}
        specs = {
            "segkit": Spec(train, {**own, "dtype": dtype}),
            "smp": Spec(smp_networks.prepare_smp_training, smp),
            "smp tuned": Spec(smp_networks.prepare_smp_training, {**smp, "tuned": True}),
        }
        return Part(f"training step, {neck} {encoder}, {dtype}", 45, partial(compare, specs))

    def compiled_training(encoder: str) -> Part:
        own = {"encoder": {"name": encoder}, "neck": smp_networks.EQUAL["unet"], **given}
        smp = {"architecture": "unet", "encoder": encoder, "best": True, **given}
        half: dict[str, Any] = {"dtype": "bfloat16"}
        specs = {
            "segkit": Spec(train, {**own, **half, "compiled": True}),
            "smp": Spec(smp_networks.prepare_smp_training, {**smp, **half}),
            "smp compiled": Spec(
                smp_networks.prepare_smp_training,
                {**smp, **half, "compiled": True, "tuned": True},
            ),
        }
        title = f"compiled training step, unet {encoder}, bfloat16"
        return Part(title, 150, partial(compare, specs))

    def inference(encoder: str) -> Part:
        own = {"encoder": {"name": encoder}, "neck": smp_networks.EQUAL["unet"], **given}
        smp = {"architecture": "unet", "encoder": encoder, "best": True, **given}
        specs = {
            "segkit": Spec(predict, {**own, "dtype": "auto"}),
            "segkit float32": Spec(predict, {**own, "dtype": "float32"}),
            "smp bfloat16": Spec(smp_networks.prepare_smp_inference, {**smp, "dtype": "bfloat16"}),
        }
        return Part(f"inference, unet {encoder}", 30, partial(compare, specs))

    def loss(classes: int) -> Part:
        own = {"device": device, "batch": size.batch, "side": size.side, "classes": classes}
        specs = {who: Spec(prepare_loss, {"who": who, **own}) for who in ("segkit", "smp")}
        return Part(f"Dice + cross-entropy, {classes} channel(s)", 25, partial(compare, specs))

    def images(title: str, who: Sequence[str], side: int, count: int) -> Part:
        own = {"device": device, "side": side, "count": count, "tile": size.tile}
        own |= {"encoder": "resnet34", "neck": "fpn"}
        specs = {name: Spec(prepare_images, {"who": name, **own}) for name in who}
        return Part(title, 40, partial(compare, specs))

    large, many, side = size.large, size.many, size.side
    deep = size.encoder if options.tiny else "resnet50"
    return [
        Part("a whole training", 110, partial(train_whole, options, size, folder)),
        training(deep, "unet", "bfloat16"),
        loss(1),
        images(f"{large} x {large} to labels, fpn resnet34", ["segkit", "monai"], large, 1),
        images(f"{many} x {side} x {side}, fpn resnet34", ["segkit", "plain loop"], side, many),
        Part("plan=auto", 80, partial(train_planned, options, size, folder)),
        inference("resnet34" if not options.tiny else size.encoder),
        training(size.encoder, "fpn", "bfloat16"),
        loss(12),
        training(deep, "unet", "float32"),
        *([] if options.tiny else [compiled_training(deep)]),
    ]


def make_row(found: Mapping[str, Measured]) -> dict[str, object]:
    """Times and peaks of all, and the ratios of ours to the others."""
    ours = found["segkit"]
    row: dict[str, object] = {}
    for name, one in found.items():
        row[f"{name}, ms"] = 1e3 * statistics.median(one.seconds) if one.seconds else one.failure
        row[f"{name}, GB"] = one.peak_mb and one.peak_mb / 1e3
    for name, one in found.items():
        if not name.startswith("segkit") and ours.seconds and one.seconds:
            row[f"segkit / {name}"] = str(compute_ratio(ours.seconds, one.seconds))
    return row


def draw_set(folder: Path, images: tuple[int, int]) -> None:
    """Nuclei to train and to validate on, in the sizes of DSB 2018, as files."""
    if folder.is_dir():
        return
    make_folder(folder)
    with ProcessPoolExecutor() as pool:
        names = [(split, n) for split, n in zip(("train", "val"), images, strict=True)]
        every = [(folder, split, number) for split, n in names for number in range(n)]
        list(pool.map(draw_pair, every, chunksize=8))


def draw_pair(what: tuple[Path, str, int]) -> None:
    """An image and its mask of ids."""
    folder, split, number = what
    cells = draw(number + 10_000 * (split == "val"), NUCLEI[number % len(NUCLEI)])
    for kind in ("images", "masks"):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    write_image(folder / split / "images" / f"{number}.png", cells.image)
    write_mask(folder / split / "masks" / f"{number}.png", cells.instances.astype(np.uint16))


def run_segkit(
    options: argparse.Namespace, folder: Path, name: str, limit: float, *typed: str
) -> tuple[float, Path, str]:
    """A training as users start it: the seconds of its process, its folder, what it said."""
    run = folder / name
    command = [sys.executable, "-m", "segkit.train", *typed, f"data.root={folder / 'set'}"]
    command += [f"hydra.run.dir={run}", "trainer.progress_bar=false", "encoder.pretrained=false"]
    command += ["data.instances=true", f"trainer.accelerator={options.accelerator}"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise SegkitError(f"{name} ended with {done.returncode}: {done.stderr[-300:]}")
    return time.monotonic() - began, run, done.stdout


def train_whole(options: argparse.Namespace, size: Size, folder: Path, limit: float) -> Rows:
    """``experiment=dsb2018`` and SMP's U-Net in a plain Lightning loop, for the same seconds."""
    until = time.monotonic() + limit
    draw_set(folder / "set", size.images)
    typed = ["experiment=dsb2018", f"trainer.max_time=00:00:00:{size.training:02}"]
    typed += ["trainer.max_epochs=null"]
    seconds, run, _ = run_segkit(options, folder, "segkit", until - time.monotonic(), *typed)
    rows = [describe_run("segkit", run, seconds, size.training)]
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        return rows
    here = Path(__file__).with_name("time_to_quality.py")
    peer = folder / "smp"
    command = [sys.executable, str(here), "--smp", "dsb2018", str(folder / "set"), "1"]
    command += [str(size.training / 60), str(peer), options.accelerator, size.encoder]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=until - began, check=False
        )
        if done.returncode:
            raise SegkitError(done.stderr[-300:])
        rows.append(describe_run("smp", peer, time.monotonic() - began, size.training))
    except (SegkitError, subprocess.TimeoutExpired, OSError) as error:  # segkit's row stays
        rows.append({"": "smp", "failed": str(error)})
    return rows


def describe_run(name: str, run: Path, seconds: float, given: float) -> dict[str, object]:
    """Steps, the best score, and what the process took beyond the time it was given."""
    history = read_csv(run / "metrics.csv")
    scores = [float(str(row.get("val/iou", "nan"))) for row in history]
    return {
        "": name,
        "steps": int(str(history[-1]["step"])),
        "ms a step": 1e3 * float(str(history[-1]["seconds_per_step"])),
        "IoU": float(np.nanmax(scores)),
        "process, s": seconds,
        "beyond, s": seconds - given,
    }


def train_planned(options: argparse.Namespace, size: Size, folder: Path, limit: float) -> Rows:
    """How long a planned training waits for its crops, and what was planned."""
    draw_set(folder / "set", size.images)
    seconds, run, said = run_segkit(
        options,
        folder,
        "planned",
        limit,
        "data=folder",
        "plan=auto",
        f"encoder={size.encoder}",
        f"trainer.max_time=00:00:00:{size.training:02}",
    )
    waits = [int(share) for share in WAITED.findall(said)]
    chosen = {row["key"]: row["value"] for row in read_csv(run / "plan.csv")}
    shown = ("data.crop_size", "data.batch_size", "trainer.ema", "augment")
    return [
        {
            **describe_run("segkit", run, seconds, size.training),
            "waited for data, %": statistics.median(waits) if waits else 0,
            **{key: str(chosen.get(key, "-")) for key in shown},
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of the whole script")
    parser.add_argument("--tiny", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose title contains it")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="a new folder")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the results")
    options = parser.parse_args()
    options.accelerator = "gpu" if options.device.startswith("cuda") else "cpu"
    until = time.monotonic() + options.seconds
    size = TINY if options.tiny else USUAL
    folder = options.runs.resolve()
    if folder.exists():
        raise SegkitError(f"--runs {folder} exists: give a new folder.")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # for the trainings
    machine = describe_machine(options.device)
    sections: list[Section] = []
    for title, limit, run in list_parts(options, size, folder):
        if options.only not in title:
            continue
        began = time.monotonic()
        left = min(limit, until - began)
        try:
            rows = run(left) if left > min(60, limit / 2) else [{"left out": "the time was over"}]
        except Exception as error:  # the other parts are still to be measured
            rows = [{"failed": f"{type(error).__name__}: {str(error)[:500]}"}]
        sections.append(Section(title, rows, [f"{time.monotonic() - began:.0f} s."]))
        print(title, flush=True)
        for row in rows:
            cells = (f"{key} {format_cell(value)}" for key, value in row.items())
            print(f"  {'; '.join(cells)}", flush=True)
        write_results(
            options.output,
            "gpu",
            title="A machine with a GPU",
            command="PYTHONPATH=. python benchmarks/gpu.py",
            machine=machine,
            settings={"device": options.device, "tiny": options.tiny},
            notes=[WHAT],
            sections=sections,
            data={"tables": {section.title: section.rows for section in sections}},
        )


WHAT = (
    "Each in a process of its own, in turns. Ratios are medians over the pairs of a round, with"
    " their quartiles. SMP and MONAI compute in channels_last and bfloat16, with segkit's network"
    " where only the tiling is compared. In segkit's steps cuDNN tries its algorithms, as in its"
    " trainings after the first 60 steps; `smp tuned` does so too. `a whole training` is"
    " `experiment=dsb2018` on drawn nuclei for a fixed time, against SMP's U-Net with the same"
    " encoder in a plain Lightning loop in bfloat16."
)

if __name__ == "__main__":
    run_script(main)
