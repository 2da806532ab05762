"""DSB 2018 in the folders of the Cell Tracking Challenge.

python benchmarks/tracking_layout.py DSB DIR

For trying experiment=phc_u373 and the like without their data: images of 256 x 256 pixels become
the frames of two sequences, and in every second frame only half of the nuclei are outlined. They
follow nothing in time, so scores on them say nothing of those sets.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from segkit.images.reading import read_image, read_mask

SIZE = (256, 256)
FRAMES = 24


def marks(ids: np.ndarray) -> np.ndarray:
    """A spot at the innermost place of every object."""
    spots = np.zeros_like(ids)
    for number in np.unique(ids[ids > 0]):
        depth = ndimage.distance_transform_edt(np.pad(ids == number, 1))[1:-1, 1:-1]
        spots[depth > 0.6 * depth.max()] = number
    return spots


def main(dsb: Path, folder: Path) -> None:
    frames = 0
    for path in sorted((dsb / "images").glob("*.png")):
        ids = read_mask(dsb / "masks" / path.name).astype(np.uint16)
        if ids.shape != SIZE or frames == 2 * FRAMES:
            continue
        sequence, number = f"{1 + frames // FRAMES:02}", f"{frames % FRAMES:03}"
        outlined = ids * (ids % 2) if frames % 2 else ids
        for name, values in {
            f"{sequence}/t{number}.tif": read_image(path)[..., 0],
            f"{sequence}_GT/SEG/man_seg{number}.tif": outlined,
            f"{sequence}_GT/TRA/man_track{number}.tif": marks(ids),
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / name, values, photometric="minisblack", metadata=None)
        frames += 1
    print(f"{frames} frames in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python benchmarks/tracking_layout.py DSB DIR; DSB holds images/ and masks/")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
