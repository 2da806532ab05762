"""Quality after five minutes, against segmentation-models-pytorch:

python benchmarks/time_to_quality.py --isbi2012 DIR --dsb2018 DIR

segkit is what users type: python -m segkit.train experiment=... with a time limit, from scratch.
SMP is its Unet(resnet34) in a plain Lightning loop in channels_last: a Dataset that reads with
OpenCV, and the same crops, transforms, normalisation, batches, workers, loss, optimizer, course of
the learning rate, clipping, time limit and choice of the best validation. Runs follow one another
on a machine that does nothing else, in an order that changes with the seed. The best weights of
both are scored here, on the whole validation images.
"""

from __future__ import annotations

import argparse
import inspect
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler

from harness.machine import describe_machine
from harness.process import run_script
from harness.side_by_side import FOLDER, publish, require_peers
from pipeline import Plain
from segkit.benchmark.results import Section
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.core.files import make_folder, write_whole
from segkit.data.augment import TrainTransform
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.base import DataSource
from segkit.inference.predictor import load
from segkit.losses import Loss
from segkit.optim.schedules import Schedule
from segkit.report.charts import draw_chart
from segkit.report.table import read_csv
from segkit.training.budget import Budget
from segkit.training.callbacks import History
from segkit.training.datamodule import default_workers

EXPERIMENTS = {"isbi2012": "isbi2012_modern", "dsb2018": "dsb2018"}
"""The default of segkit for each set."""
SIDES = 32
"""Images of SMP's must be multiples of that."""


def overrides(name: str, root: Path, seed: int, minutes: float) -> list[str]:
    """What a user of segkit types for a run."""
    limit = time.strftime("00:%H:%M:%S", time.gmtime(60 * minutes))
    return [
        f"experiment={EXPERIMENTS[name]}",
        f"data.root={root}",
        "encoder.pretrained=false",
        "trainer.max_epochs=null",
        f"trainer.max_time={limit}",
        f"seed={seed}",
    ]


def found_data(settings: Any) -> DataSummary:
    """The same samples, sizes and intensities for both."""
    options = {"mode": "binary", **settings.data.options}
    source = DataSource.build(settings.data.name, **options)
    return check(source, "binary")


class PlainLoop(L.LightningModule):
    """SMP's U-Net as one trains it with Lightning."""

    def __init__(
        self, settings: Any, channels: int, budget: Budget, encoder: str = "resnet34"
    ) -> None:
        import segmentation_models_pytorch as smp

        super().__init__()
        self.settings, self.budget = settings, budget
        self.model = smp.Unet(encoder, encoder_weights=None, in_channels=channels, classes=1)
        self.model = self.model.to(memory_format=torch.channels_last)
        self.loss = Loss.build(settings.loss.name, mode="binary", **settings.loss.options)
        self.counts = torch.zeros(3)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1, H, W)."""
        return self.model(image.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The loss."""
        image, target = batch
        loss = self.loss(self(image), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        """Count the pixels of whole images."""
        image, target = batch
        found, truth = self.labels(image) > 0, target > 0
        hits, either = (found & truth).sum(), (found | truth).sum()
        self.counts += torch.stack([hits, either, torch.ones_like(hits)]).cpu()

    def labels(self, image: Tensor) -> Tensor:
        """Of images of any size (B, C, H, W), padded for the network: (B, H, W)."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % SIDES, 0, -height % SIDES), mode="replicate")
        return (self(padded)[:, 0, :height, :width] > 0).to(torch.uint8)

    def on_validation_epoch_end(self) -> None:
        """The IoU of all of them."""
        self.log("val/iou", self.counts[0] / self.counts[1])
        self.counts.zero_()

    def configure_optimizers(self) -> Any:
        """Those of segkit, by its config."""
        s = self.settings
        known = inspect.signature(torch.optim.AdamW).parameters
        options = {k: v for k, v in s.optimizer.options.items() if k in known}
        optimizer = torch.optim.AdamW(self.parameters(), **options)
        course = Schedule.build(s.scheduler.name, **s.scheduler.options)
        schedule = LambdaLR(optimizer, lambda _: course.factor(self.budget.progress))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def train_smp(
    name: str,
    root: Path,
    seed: int,
    minutes: float,
    folder: Path,
    accelerator: str = "cpu",
    encoder: str = "resnet34",
) -> None:
    """A run of the plain loop; leaves metrics.csv and best.ckpt as segkit's does."""
    settings = validate(compose(overrides(name, root, seed, minutes)))
    L.seed_everything(seed, workers=True)
    summary, data = found_data(settings), settings.data
    height, width = data.crop_size
    crop = [
        A.PadIfNeeded(height, width, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomCrop(height, width),
    ]
    steps = TrainTransform(data.crop_size, settings.augment.transforms)._steps
    training = Plain(summary.splits["train"], summary, [*crop, *steps])
    validation = Plain(summary.splits["val"], summary, [])
    count = data.samples_per_epoch or len(training)
    workers = default_workers()
    loader: Any = DataLoader(
        training,
        min(data.batch_size, count),
        sampler=RandomSampler(training, replacement=count > len(training), num_samples=count),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    whole: Any = DataLoader(validation, 1, num_workers=workers, persistent_workers=workers > 0)
    seconds = settings.trainer.seconds
    assert seconds is not None
    budget = Budget(seconds)
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val/iou",
        mode="max",
        save_on_train_epoch_end=False,
    )
    trainer = L.Trainer(
        accelerator=accelerator,
        precision="bf16-mixed" if accelerator == "gpu" else "32-true",
        max_epochs=-1,
        gradient_clip_val=settings.trainer.gradient_clip_val,
        callbacks=[budget, History(folder), best],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(PlainLoop(settings, summary.in_channels, budget, encoder), loader, whole)


def predictions(
    who: str, folder: Path, settings: Any, summary: DataSummary
) -> Callable[[int], NDArray[np.uint8]]:
    """The labels of a validation image by its number, from the best weights of a run."""
    if who == "segkit":
        predictor = load(folder / "checkpoints/best.ckpt", instances=None)
        return lambda i: predictor(str(summary.splits["val"][i].image)).labels
    loop = PlainLoop(settings, summary.in_channels, Budget(1.0))
    state = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    loop.load_state_dict(state)
    loop.eval()
    data = Plain(summary.splits["val"], summary, [])

    def labels(number: int) -> NDArray[np.uint8]:
        with torch.inference_mode():
            return loop.labels(data[number][0][None])[0].numpy()

    return labels


def score(who: str, folder: Path, settings: Any, summary: DataSummary) -> float:
    """Foreground IoU over all pixels of the validation images."""
    labels = predictions(who, folder, settings, summary)
    truth = Plain(summary.splits["val"], summary, [])
    hits = either = 0
    for number in range(len(truth)):
        found, there = labels(number) > 0, truth.read(number)[1] > 0
        hits, either = hits + int((found & there).sum()), either + int((found | there).sum())
    return hits / either


def run(who: str, name: str, root: Path, seed: int, minutes: float, folder: Path) -> None:
    """A training in its own process, unless its result already exists."""
    if (folder / "done").is_file():
        return
    if who == "segkit":
        typed = overrides(name, root, seed, minutes)
        command = [sys.executable, "-m", "segkit.train", *typed, f"hydra.run.dir={folder}"]
        command.append("trainer.progress_bar=false")
    else:
        here = str(Path(__file__).resolve())
        command = [sys.executable, here, "--smp", name, str(root), str(seed), str(minutes)]
        command.append(str(folder))
    make_folder(folder)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SegkitError(f"{who} on {name}, seed {seed}, ended with {code}: {folder / 'log.txt'}")
    (folder / "done").touch()


def history_of(folder: Path) -> tuple[int, list[tuple[float, float]]]:
    """The optimizer steps of a run, and (minutes, IoU) of its validations."""
    rows = read_csv(folder / "metrics.csv")
    points = [(float(str(r["seconds"])) / 60, float(str(r["val/iou"]))) for r in rows]
    return int(str(rows[-1]["step"])), [point for point in points if not math.isnan(point[1])]


def spread(values: Sequence[float]) -> str:
    """Mean and deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} +- {deviation:.4f}"


def main() -> None:
    if sys.argv[1:2] == ["--smp"]:
        name, root, seed, minutes, folder, *options = sys.argv[2:]
        train_smp(name, Path(root), int(seed), float(minutes), Path(folder), *options)
        return
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    for name in EXPERIMENTS:
        parser.add_argument(f"--{name}", type=Path, help="its folder; left out without one")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/time_to_quality"))
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the results")
    options = parser.parse_args()
    require_peers("segmentation_models_pytorch")
    given = {name: getattr(options, name) for name in EXPERIMENTS}
    present = {name: root.resolve() for name, root in given.items() if root is not None}
    if not present:
        parser.error("give the folder of a set")
    measure(present, options)


def measure(present: dict[str, Path], options: argparse.Namespace) -> None:
    """All runs, and the files of the results."""
    rows: list[dict[str, object]] = []
    raw: dict[str, Any] = {}
    make_folder(options.output)
    for name, root in present.items():
        settings = validate(compose(overrides(name, root, 1, options.minutes)))
        summary = found_data(settings)
        found: dict[str, list[dict[str, Any]]] = {"segkit": [], "smp": []}
        for turn, seed in enumerate(options.seeds):
            for who in list(found)[:: 1 if turn % 2 == 0 else -1]:
                folder = (options.runs / f"{name}-{who}-{seed}").resolve()
                run(who, name, root, seed, options.minutes, folder)
                steps, curve = history_of(folder)
                iou = score(who, folder, settings, summary)
                found[who].append({"seed": seed, "iou": iou, "steps": steps, "curve": curve})
                print(f"{name} {who} seed {seed}: {iou:.4f}, {steps} steps", flush=True)
        raw[name] = found
        for who, runs in found.items():
            values = [one["iou"] for one in runs]
            rows.append(
                {
                    "set": name,
                    "": who,
                    "foreground IoU": spread(values),
                    "of each seed": ", ".join(f"{value:.4f}" for value in values),
                    "steps": round(statistics.mean(one["steps"] for one in runs)),
                }
            )
        drawing = draw_chart(
            {f"{who}, seed {one['seed']}": one["curve"] for who in found for one in found[who]},
            title=f"{name}: foreground IoU of the validation images",
            x_label="minutes",
        )
        write_whole(options.output / f"time_to_quality_{name}.svg", drawing)
    pictures = [f"![{name}](time_to_quality_{name}.svg)" for name in present]
    after = f"After {options.minutes:g} minutes on {torch.get_num_threads()} cores"
    title = "Quality after a few minutes"
    sections = [Section(after, rows, [WHAT, *pictures])]
    folders = (f"--{name} DIR" for name in present)  # their places on this machine do not matter
    command = " ".join(["python benchmarks/time_to_quality.py", *folders])
    shown = argparse.Namespace(minutes=options.minutes, seeds=options.seeds, output=options.output)
    publish("time_to_quality", title, shown, describe_machine(), sections, [], raw, command)


WHAT = (
    "From scratch. `segkit` is `python -m segkit.train` with the experiment of the set"
    " (isbi2012_modern, dsb2018) and a time limit, and nothing else. `smp` is Unet(resnet34) in"
    " channels_last in a plain Lightning loop with the same crops, transforms, normalisation,"
    " batches, workers, loss, AdamW, course of the learning rate, clipping, time limit and choice"
    " of the best validation. The time is that of the training with its validations, which take a"
    " fifth of it at most; IoU is over all pixels of the whole validation images, from the best"
    " weights. Mean and deviation over the seeds."
)

if __name__ == "__main__":
    run_script(main)
