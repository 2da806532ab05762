"""How probabilities step where tiles meet: python benchmarks/seams.py CHECKPOINT IMAGE

The steps from one pixel to the next, in the columns where a tile begins or ends and in all others,
for tiles of two sizes with and without overlap.
"""

from __future__ import annotations

import sys

import numpy as np

import segkit
from segkit.images.reading import read_image
from segkit.inference.tiles.tiling import plan_grid


def main() -> None:
    """Print a row for each way of tiling."""
    checkpoint, image = sys.argv[1], read_image(sys.argv[2])
    height, width = image.shape[:2]
    print(f"{'tile':>6}{'overlap':>9}{'mean at edges':>15}{'elsewhere':>11}{'worst column':>14}")
    for tile in (128, 256):
        for overlap in (0.0, 0.25, 0.5):
            predictor = segkit.load(checkpoint, tile=tile, overlap=overlap)
            axis = plan_grid(height, width, predictor.windows, overlap).columns
            edges = {start + side for start in axis.starts for side in (0, axis.window)}
            at_edges = np.zeros(width - 1, bool)
            at_edges[[edge - 1 for edge in edges if 0 < edge < width]] = True
            steps = np.abs(np.diff(predictor(image).probabilities[-1], axis=1)).mean(0)
            worst = steps[at_edges].max() / np.median(steps[~at_edges])
            mean, other = steps[at_edges].mean(), steps[~at_edges].mean()
            print(f"{tile:>6}{overlap:>9}{mean:>15.4f}{other:>11.4f}{worst:>13.2f}x")


if __name__ == "__main__":
    main()
