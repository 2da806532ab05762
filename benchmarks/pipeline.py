"""Training crops a second, made, against a plain Dataset and MONAI's CacheDataset:

    python benchmarks/pipeline.py [DIR ...] [--instances DIR ...] [--augments light ...]

A DIR has images/ and masks/; without any, the built-in cells are written as PNG files and taken.
A crop counts when it stands in a batch as the network takes it: normalised float32 images, int64
labels.

All give 256 x 256 crops with the same transforms of albumentations, in batches of 8, each process
with one thread. The plain Dataset is what a user writes: OpenCV reads the files, one Compose crops
and augments, then images are normalised. MONAI's CacheDataset holds all
images decoded in memory and cuts with its own RandSpatialCropd; MONAI has few of these transforms
itself, and so runs the same ones of albumentations. Segkit reads from its cache, which one pass has
filled before, and without it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
import yaml
from torch.utils.data import DataLoader, Dataset, RandomSampler

from harness.process import run_script
from harness.side_by_side import (
    OURS,
    choose_names,
    make_parser,
    measure_machine,
    publish,
    require_peers,
)
from harness.timing import Measure, alternate, compute_ratio
from segkit.benchmark.results import Section
from segkit.config.compose import find_conf_dir
from segkit.core.errors import SegkitError
from segkit.data.augment import TrainTransform
from segkit.data.checks.summary import DataSummary, check
from segkit.data.draws import DrawSampler, EvenOrder
from segkit.data.loading import ArrayCache, TrainDataset, as_item
from segkit.data.sources.base import Sample
from segkit.data.sources.cells import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask
from segkit.targets.base import Labels

CROP, BATCH = 256, 8
PLAIN = "plain Dataset"
LEAST = 2.0
"""Target ratio to the crops of a plain Dataset."""
Batches = Callable[[], Iterator[Any]]


class Plain(Dataset[Any]):
    """A data set as it is written every day."""

    def __init__(self, samples: list[Sample], summary: DataSummary, steps: list[Any]) -> None:
        self.samples, self.summary = samples, summary
        self.transform = A.Compose(steps)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) and mask (H, W), uint8."""
        sample = self.samples[index]
        flag = cv2.IMREAD_GRAYSCALE if self.summary.in_channels == 1 else cv2.IMREAD_COLOR_RGB
        image = cv2.imread(str(sample.image), flag)
        mask = cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert mask is not None
        image = image.reshape(*image.shape[:2], -1)
        return image, (mask > 0).astype(np.uint8)

    def finish(self, image: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As the network takes them."""
        norm = self.summary.normalization
        unit = image.astype(np.float32) / 255
        unit = (unit - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
        return torch.from_numpy(unit.transpose(2, 0, 1).copy()), torch.from_numpy(mask).long()

    def __getitem__(self, index: int) -> Any:
        image, mask = self.read(index)
        out = self.transform(image=image, mask=mask)
        return self.finish(out["image"], out["mask"])


def load_plain(data: Plain, workers: int) -> Batches:
    loader: Any = DataLoader(
        data, BATCH, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: iter(loader)


def load_segkit(
    source: FolderSource, summary: DataSummary, augment: list[Any], cache: Any, workers: int
) -> Batches:
    norm, samples = summary.normalization, summary.splits["train"]
    transform = TrainTransform((CROP, CROP), augment)
    dataset = TrainDataset(
        source, samples, summary.coding, norm, transform, Labels(), cache, workers
    )
    sampler = DrawSampler(EvenOrder(len(samples), 1), len(samples), seed=1)
    loader: Any = DataLoader(
        dataset, BATCH, sampler=sampler, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: (as_item(batch, norm) for batch in loader)


def load_monai(data: Plain, augment: list[Any], workers: int) -> Batches:
    from monai.data import CacheDataset
    from monai.data import DataLoader as MonaiLoader
    from monai.transforms import Compose, Lambda, RandSpatialCropd, SpatialPadd

    steps = A.Compose(augment)

    def read(index: int) -> dict[str, np.ndarray]:
        image, mask = data.read(index)
        return {"image": image.transpose(2, 0, 1).copy(), "mask": mask[None]}

    def rest(item: dict[str, Any]) -> Any:
        out = steps(
            image=np.ascontiguousarray(np.asarray(item["image"]).transpose(1, 2, 0)),
            mask=np.ascontiguousarray(np.asarray(item["mask"])[0]),
        )
        return data.finish(out["image"], out["mask"])

    both = ("image", "mask")
    transform = Compose(
        [
            Lambda(read, track_meta=False),
            SpatialPadd(both, (CROP, CROP)),
            RandSpatialCropd(both, (CROP, CROP), random_size=False),
            Lambda(rest, track_meta=False),
        ]
    )
    held = CacheDataset(range(len(data)), transform, num_workers=None, progress=False)
    loader = MonaiLoader(
        held, batch_size=BATCH, sampler=RandomSampler(held), drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: iter(loader)


def time_crops(batches: Batches, seconds: float) -> Measure:
    """Whole epochs, until the time is over."""

    def measure() -> float:
        count, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not count:
            count += BATCH * sum(1 for _ in batches())
        return spent / count

    return measure


def write_cells(folder: Path) -> Path:
    """The built-in cells as files, 512 x 512."""
    source = CellsSource("binary", train=32, val=0, test=0, size=(512, 512), instances=True)
    folder = folder / "built-in" / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for sample in source.splits()["train"]:
        write_image(folder / "images" / f"{sample.name}.png", source.read_image(sample))
        write_mask(folder / "masks" / f"{sample.name}.png", source.read_mask(sample) > 0)
    return folder


def list_candidates(
    source: FolderSource, summary: DataSummary, augment: str, cache: ArrayCache, workers: int
) -> dict[str, Batches]:
    """What is compared: ours first, then what it is held against."""
    preset = (find_conf_dir() / "augment" / f"{augment}.yaml").read_text(encoding="utf-8")
    transforms = yaml.safe_load(preset)["transforms"]

    def built() -> list[Any]:  # new ones each time: steps belong to one Compose
        return TrainTransform((CROP, CROP), transforms)._steps

    crop = [A.PadIfNeeded(CROP, CROP, border_mode=cv2.BORDER_CONSTANT), A.RandomCrop(CROP, CROP)]
    data = Plain(summary.splits["train"], summary, [*crop, *built()])
    return {
        OURS: load_segkit(source, summary, transforms, cache, workers),
        PLAIN: load_plain(data, workers),
        "MONAI CacheDataset": load_monai(data, built(), workers),
        "segkit, data.cache=false": load_segkit(source, summary, transforms, None, workers),
    }


def name_set(root: Path) -> str:
    """What to call a set: its folder and the one around it."""
    return "/".join(root.resolve().parts[-2:])


def read_set(root: Path, instances: bool) -> tuple[FolderSource, DataSummary]:
    """A folder of 8-bit images and what is known of it.

    Raises:
        SegkitError: It cannot be used.
    """
    source = FolderSource("binary", root=root, instances=instances, val_fraction=0)
    summary = check(source, "binary", needed=("train",))
    if summary.normalization.dtype != "uint8":
        raise SegkitError(f"{root}: the plain Dataset of this comparison reads images of 8 bits.")
    return source, summary


def compare(
    root: Path, augment: str, options: argparse.Namespace, copied: float
) -> tuple[dict[str, object], dict[str, list[float]]]:
    """A line of the table, and the seconds a crop of every turn.

    Args:
        root: Has the images and masks.
        augment: A preset.
        options: What was asked for.
        copied: Bytes a second that this machine copies with one thread.
    """
    source, summary = read_set(root, root in options.instances)
    cache = ArrayCache()
    made = list_candidates(source, summary, augment, cache, options.workers)
    measures = {name: time_crops(each, options.seconds) for name, each in made.items()}
    found = alternate(measures, options.rounds, max(1, options.warm_up))  # one fills the cache
    cache.close()
    if found.failures:
        raise SegkitError("; ".join(found.failures.values()))
    height, width = summary.measures.median
    count = len(summary.splits["train"])
    row: dict[str, object] = {
        "set": name_set(root),
        "images": f"{count} of {height} x {width} x {summary.in_channels}",
        "augment": augment,
    }
    for name, seconds in found.seconds.items():
        row[f"{name}, crops / s"] = 1 / statistics.median(seconds)
    # A crop is read once in 8 bits, and written as float32 with labels of int64.
    row["floor, crops / s"] = copied / (CROP**2 * (5 * summary.in_channels + 9))
    for name, seconds in found.seconds.items():
        if not name.startswith(OURS):
            row[f"{OURS} makes, times {name}"] = str(compute_ratio(seconds, found.seconds[OURS]))
    row["of a plain Dataset at least"] = LEAST
    return row, found.seconds


def main() -> None:
    parser = make_parser(str(__doc__), rounds=8, warm_up=1)
    parser.add_argument("roots", type=Path, nargs="*", help="folders with images/ and masks/")
    parser.add_argument(
        "--instances", type=Path, nargs="+", default=[], metavar="DIR",
        help="likewise, with ids of objects in their masks",
    )  # fmt: skip
    parser.add_argument(
        "--augments", nargs="+", default=["none", "light", "medium"], help="presets of conf/augment"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    options = parser.parse_args()
    require_peers("monai")
    machine, rates = measure_machine(threads=1)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        roots = [*options.roots, *options.instances] or [write_cells(Path(folder))]
        names = {
            f"{name_set(root)} {augment}": (root, augment)
            for root in roots
            for augment in options.augments
        }
        rows, raw = [], {}
        for number, name in enumerate(wanted := choose_names(list(names), options.only), 1):
            print(f"[{number}/{len(wanted)}] {name}", flush=True)
            row, raw[name] = compare(*names[name], options, rates.bytes)
            rows.append(row)
    title = "Training crops a second"
    publish("pipeline", title, options, machine, [Section("", rows)], [WHAT], raw)


WHAT = (
    f"Crops of {CROP} x {CROP} in batches of {BATCH}, as the network takes them, from one process"
    " with one thread. Segkit and MONAI have the set in memory; a plain Dataset decodes each image"
    " when it is asked for. All have the same transforms. How many times as many crops segkit"
    " makes is the median over the pairs of a round, with quartiles."
)

if __name__ == "__main__":
    run_script(main)
