"""Draw the pictures of docs/augmentation.md: each transform of augment=strong, and each mix.

python docs/draw_augmentation.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import yaml
from numpy.typing import NDArray

from segkit.checkpoint.values import LabelCoding, Normalization
from segkit.data.augment import TrainTransform
from segkit.data.loading import TrainDataset
from segkit.data.mixing.mixes import Mix, build_mixes
from segkit.data.sources.cells import CellsSource
from segkit.report.overlay import draw_overlay, make_object_layer
from segkit.targets.base import Foreground

IMAGES = Path(__file__).parent / "images"
STRONG = Path(__file__).parents[1] / "conf" / "augment" / "strong.yaml"
SIDE = 160
SEED = 4
"""Of a crop in which objects lie well."""
EIGHT = Normalization("uint8", 0, 255, (0.5,) * 3, (0.25,) * 3)
Titled = tuple[str, NDArray[np.uint8]]


def draw_transforms(source: CellsSource) -> list[Titled]:
    """An image, and what each transform makes of it, of 30 draws the one that changes most."""
    image = source.read_image(source.splits()["train"][0])
    drawn = [("as it is", image)]
    for options in yaml.safe_load(STRONG.read_text(encoding="utf-8"))["transforms"]:
        transform = TrainTransform((SIDE, SIDE), [{**options, "p": 1.0}])
        results = [transform(image, image[..., 0], seed)[0] for seed in range(30)]
        changes = [np.abs(each.astype(float) - image).mean() for each in results]
        drawn.append((options["name"], results[int(np.argmax(changes))]))
    return drawn


def draw_mixes(source: CellsSource) -> list[Titled]:
    """A crop, and what each mix makes of it; MixUp blends images, and their losses."""
    samples = source.splits()["train"]
    drawn = []
    for name in [None, *Mix.names()]:
        mixes = [] if name is None else build_mixes([{"name": name, "p": 1.0}])
        transform = TrainTransform((SIDE, SIDE), [])
        coding = LabelCoding({}, foreground=True)
        dataset = TrainDataset(source, samples, coding, EIGHT, transform, Foreground(), mixes=mixes)
        crop = dataset._make_crop(0, SEED, lambda: None)
        drawn.append((name or "as it is", show(*dataset._mix(crop, SEED))))
    other = dataset._make_crop(1, SEED, lambda: None)[0]
    own = dataset._make_crop(0, SEED, lambda: None)[0]
    blended = (0.7 * own + 0.3 * other).astype(np.uint8)
    return [*drawn, ("mixup, 70 % and 30 %", blended)]


def show(image: NDArray[Any], ids: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A crop with its objects painted over."""
    return draw_overlay(image, make_object_layer(ids.astype(np.int32), 255))


def save(titled: Sequence[Titled], name: str, columns: int) -> None:
    """Save pictures in rows, each below its title."""
    rows = -(-len(titled) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.2 * columns, 2.45 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, titled, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=10)
    figure.savefig(IMAGES / name, dpi=80, pil_kwargs={"quality": 85})
    plt.close(figure)


if __name__ == "__main__":
    cells = CellsSource("binary", train=6, val=1, test=0, size=(SIDE, SIDE), channels=3)
    save(draw_transforms(cells), "augment_strong.jpg", 4)
    save(draw_mixes(cells), "mixes.jpg", 5)
