"""How long targets take to draw, in ms of one core: OMP_NUM_THREADS=1 python benchmarks/targets.py

Two crops of 512 x 512 pixels: about 100 touching cells, and 100 objects that cover all of it. The
time is that of the processor, so that other programs change it little; the median of the rounds.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.sources.cells import draw
from segkit.targets.base import Target
from segkit.targets.objects import make_ids, number_objects
from segkit.targets.weight_map import WeightMap

ROUNDS = 51
TARGETS = [
    ("foreground", {"gap": 2}),
    ("foreground", {"gap": 5}),
    ("border_core", {"border": 2}),
    ("border_core", {"border": 5}),
    ("distance", {"levels": 5}),
    ("distance", {"levels": 16}),
]


def measure_encoding(target: Target, mask: NDArray[Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        target.encode(mask)
        times.append(1e3 * (time.process_time() - began))
    return statistics.median(times)


def draw_full(count: int) -> NDArray[np.uint16]:
    """Every pixel belongs to the nearest of random points: as much to draw as there can be."""
    places = np.random.default_rng(0).choice(512 * 512, count, replace=False)
    ids = np.zeros(512 * 512, np.uint16)
    ids[places] = make_ids(count)
    ids = ids.reshape(512, 512)
    rows, columns = ndimage.distance_transform_edt(
        ids == 0, return_distances=False, return_indices=True
    )
    return ids[rows, columns]


def main() -> None:
    cv2.setNumThreads(0)
    cells = number_objects(draw(seed=3, size=(512, 512), n_cells=(7, 7)).instances)
    full = draw_full(100)
    print(f"{len(np.unique(cells)) - 1} cells on {(cells > 0).mean():.0%} of 512 x 512 pixels,")
    print("and 100 objects that cover them all")
    print(f"{'':<36}{'cells':>10}{'full':>10}")
    for weight_map in (None, WeightMap()):
        weighted = [("labels", {})] if weight_map else []
        for name, options in weighted + TARGETS:
            target = Target.build(name, **options, weight_map=weight_map)
            title = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
            title += " weight_map" if weight_map else ""
            columns = []
            for ids in (cells, full):
                mask = ids if target.from_ids else (ids > 0).astype(np.uint8)
                columns.append(f"{measure_encoding(target, mask):>7.1f} ms")
            print(f"{title:<36}{''.join(columns)}")


if __name__ == "__main__":
    main()
