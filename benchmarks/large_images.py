"""Peak memory of predicting images of growing size: python benchmarks/large_images.py [SIDE ...]

Trains a small network for some seconds, writes a tiled TIFF of each size, and runs the predict
command on it in its own process, whose peak memory is measured. Then the same image is
predicted in memory, and the labels are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import segkit
from segkit.data.sources.cells import draw
from segkit.images.reading import read_image, read_mask
from segkit.images.window_writing import WindowFile

SIDES = (2_000, 8_000, 20_000)
NETWORK = ["encoder=unet", "encoder.width=4", "encoder.depth=3", "neck=unet"]


def train(folder: Path) -> Path:
    """A checkpoint of a network that is small enough for 400 million pixels on a CPU."""
    command = [sys.executable, "-m", "segkit.train", *NETWORK, "trainer.max_epochs=2"]
    command += ["data.samples_per_epoch=40", "trainer.progress_bar=false"]
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, capture_output=True)
    return folder / "checkpoints" / "best.ckpt"


def write(path: Path, side: int) -> None:
    """A field of cells, drawn once and repeated with an offset, so that no two tiles are alike."""
    cells = draw(1, (1000, 1000)).image[..., 0]
    with WindowFile(path, (side, side), "uint8") as file:
        for top in range(0, side, 1000):
            for left in range(0, side, 1000):
                field = np.roll(cells, (top // 7, left // 11), (0, 1))
                file.write(top, left, field[: side - top, : side - left])


def predict(checkpoint: Path, image: Path, output: Path) -> tuple[float, float]:
    """Seconds, and the peak memory in MB."""
    command = [sys.executable, "-m", "segkit.predict", f"checkpoint={checkpoint}", f"input={image}"]
    command += [f"output={output}", "overlays=false"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each size."""
    sides = [int(side) for side in sys.argv[1:]] or SIDES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = train(folder / "run")
        # First all of them: a process starts with the peak of the one that started it.
        measured = {}
        for side in sides:
            write(folder / f"{side}.tif", side)
            measured[side] = predict(checkpoint, folder / f"{side}.tif", folder / "masks")
        predictor = segkit.load(checkpoint)
        print(f"{'pixels':>16}{'seconds':>9}{'Mpx / s':>9}{'peak MB':>9}{'labels that differ':>20}")
        for side, (seconds, peak) in measured.items():
            labels = predictor(read_image(folder / f"{side}.tif")).labels
            mask = read_mask(next((folder / "masks").glob(f"{side}.*")))  # a large one is a TIFF
            differ = int((labels != (mask > 0)).sum())
            size, speed = f"{side:,} x {side:,}", side**2 / seconds / 1e6
            print(f"{size:>16}{seconds:>9.1f}{speed:>9.2f}{peak:>9.0f}{differ:>20,}")


if __name__ == "__main__":
    main()
