"""Training crops a second, made, against a plain Dataset and MONAI's CacheDataset:

OMP_NUM_THREADS=1 python benchmarks/pipeline.py [DIR] [--instances] [--augment light] [--workers 0]

DIR has images/ and masks/; without it the built-in cells are written as PNG files and taken. A crop
counts when it stands in a batch as the network takes it: normalised float32 images, int64 labels.

All give 256 x 256 crops with the same transforms of albumentations, in batches of 8. The plain
Dataset is what a user writes: OpenCV reads the files, as it does in segkit, one Compose crops and
augments, then images are normalised. MONAI's CacheDataset holds all images decoded in memory and
cuts with its own RandSpatialCropd; MONAI has few of these transforms itself, and so runs the same
ones of albumentations. Segkit reads from its cache, which one pass has filled before.

They take turns, so that other programs on the machine slow all of them down; only the ratios,
of the medians, say something then.
"""

from __future__ import annotations

import argparse
import statistics
import sys
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

from segkit.config import conf_dir
from segkit.data.builtin import CellsSource
from segkit.data.cache import ArrayCache
from segkit.data.checking import DataSummary, check
from segkit.data.dataset import TrainDataset, as_item
from segkit.data.folder import FolderSource
from segkit.data.samplers import DrawSampler
from segkit.data.source import Sample
from segkit.data.target import Labels
from segkit.data.transforms import TrainTransform
from segkit.data.writing import write_image, write_mask

CROP, BATCH = 256, 8
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


def plain(data: Plain, workers: int) -> Batches:
    loader: Any = DataLoader(
        data, BATCH, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: iter(loader)


def segkit(
    source: FolderSource, summary: DataSummary, augment: list[Any], cache: Any, workers: int
) -> Batches:
    norm, samples = summary.normalization, summary.splits["train"]
    transform = TrainTransform((CROP, CROP), augment)
    dataset = TrainDataset(
        source, samples, summary.coding, norm, transform, Labels(), cache, workers
    )
    sampler = DrawSampler(len(samples), len(samples), seed=1)
    loader: Any = DataLoader(
        dataset, BATCH, sampler=sampler, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: (as_item(batch, norm) for batch in loader)


def monai(data: Plain, augment: list[Any], workers: int) -> Batches | None:
    try:
        from monai.data import CacheDataset
        from monai.data import DataLoader as MonaiLoader
        from monai.transforms import Compose, Lambda, RandSpatialCropd, SpatialPadd
    except ImportError:
        return None
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


def crops_a_second(batches: Batches, seconds: float) -> float:
    """Whole epochs, until the time is over."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not count:
        count += BATCH * sum(1 for _ in batches())
    return count / spent


def drawn(folder: Path) -> Path:
    """The built-in cells as files, 512 x 512."""
    source = CellsSource("binary", train=32, val=0, test=0, size=(512, 512), instances=True)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for sample in source.splits()["train"]:
        write_image(folder / "images" / f"{sample.name}.png", source.read_image(sample))
        write_mask(folder / "masks" / f"{sample.name}.png", source.read_mask(sample) > 0)
    return folder


def measure(root: Path, options: argparse.Namespace) -> None:
    source = FolderSource("binary", root=root, instances=options.instances, val_fraction=0)
    summary = check(source, "binary", needed=("train",))
    samples = summary.splits["train"]
    if summary.normalization.dtype != "uint8":
        sys.exit("the plain Dataset of this comparison reads images of 8 bits")
    preset = conf_dir() / "augment" / f"{options.augment}.yaml"
    augment = yaml.safe_load(preset.read_text(encoding="utf-8"))["transforms"]
    built = TrainTransform((CROP, CROP), augment)._steps
    crop = [A.PadIfNeeded(CROP, CROP, border_mode=cv2.BORDER_CONSTANT), A.RandomCrop(CROP, CROP)]
    data = Plain(samples, summary, [*crop, *built])
    again = TrainTransform((CROP, CROP), augment)._steps  # steps belong to one Compose
    cache = ArrayCache()
    candidates: dict[str, Batches | None] = {
        "segkit": segkit(source, summary, augment, cache, options.workers),
        "plain Dataset": plain(data, options.workers),
        "MONAI CacheDataset": monai(data, again, options.workers),
        "segkit, data.cache=false": segkit(source, summary, augment, None, options.workers),
    }
    present = {name: batches for name, batches in candidates.items() if batches is not None}
    for batches in present.values():  # fills the cache, starts the workers
        for _ in batches():
            pass
    found: dict[str, list[float]] = {name: [] for name in present}
    for number in range(options.rounds):
        order = list(present) if number % 2 == 0 else list(reversed(present))
        for name in order:
            found[name].append(crops_a_second(present[name], options.seconds))
    cache.close()
    medians = {name: statistics.median(values) for name, values in found.items()}
    height, width = summary.measures.median
    print(
        f"{len(samples)} images, typically {height} x {width} x {summary.in_channels};"
        f" augment={options.augment}, {options.workers} workers, {options.rounds} rounds\n"
    )
    print("| | crops a second | segkit / it |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.0f} | {medians['segkit'] / value:.2f} |")
    for name in candidates.keys() - present.keys():
        print(f"| {name} | not installed: pip install 'segkit-torch[peers]' | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, nargs="?", help="a folder with images/ and masks/")
    parser.add_argument("--instances", action="store_true", help="masks hold ids of objects")
    parser.add_argument("--augment", default="light", help="a preset of conf/augment")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(options.root or drawn(Path(folder)), options)


if __name__ == "__main__":
    main()
