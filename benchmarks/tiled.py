"""Large images in tiles against MONAI's sliding_window_inference: python benchmarks/tiled.py

The same network (a U-Net of segkit with random weights), tiles, overlap and Gaussian weights, from
an image of 8 bits in memory to probabilities and labels of all of it. Each candidate lives in a
process of its own, and they take turns; the largest difference of their probabilities is
reported.
--image names a picture whose texture is repeated; else it is drawn cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.networks import Facts
from harness.process import Candidate, Spec, run_script
from harness.side_by_side import (
    OURS,
    Case,
    Comparison,
    compare_cases,
    make_network_parser,
    publish,
    require_peers,
)
from segkit.benchmark.networks import build_network, make_bare_card
from segkit.benchmark.results import Section, format_cell
from segkit.core.allocator import keep_freed_memory
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import read_image
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork, find_windows
from segkit.inference.tiles.tiling import plan_grid
from segkit.models.conv import plain_joins
from segkit.models.fast import for_inference
from segkit.models.segmenter import Segmenter

NECK = {"name": "unet"}
MONAI = "monai"
MOST = {MONAI: 0.70, f"{MONAI} MB": 0.50}
"""Target ratios of time and memory."""
BUFFER = 1
"""Rows of tiles that MONAI's buffered way puts together at once: the least."""


def build_unet(encoder: str, tile: int) -> Segmenter:
    """The network of all candidates, its norms as after a training."""
    torch.manual_seed(0)
    model = build_network({"name": encoder}, NECK, 1, 1, tile)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


def prepare_segkit(
    image: str, encoder: str, tile: int, overlap: float, result: str, windows: bool
) -> Candidate:
    """By segkit's predictor: in memory, or by windows into an array of labels.

    Args:
        image: The image, a file of numpy.
        encoder: Name of the encoder.
        tile: Side of the tiles.
        overlap: Share of a tile that it has in common with the next.
        result: Where the probabilities go, a file of numpy.
        windows: Whether only labels are kept, and the rest is forgotten row by row.
    """
    keep_freed_memory()  # as the commands do
    model = build_unet(encoder, tile)
    facts = Facts(model)
    card = make_bare_card(model, tile, "uint8", 255.0)
    predictor = Predictor(TorchNetwork(model, card, "cpu", tile), overlap=overlap)
    del model
    pixels: NDArray[np.uint8] = np.load(image)
    predictor(pixels[: 2 * tile, : 2 * tile])  # warm
    kept: dict[str, Any] = {}

    def run() -> None:
        kept.clear()
        if not windows:
            kept["probabilities"] = predictor(pixels, probabilities=True).probabilities
            return
        labels = np.empty(pixels.shape, np.uint8)
        predictor.predict_windows(_InMemory(pixels), partial(_put, labels))
        kept["labels"] = labels

    return Candidate(run, _facts(facts, encoder, tile, pixels, overlap, kept, result))


def prepare_monai(
    image: str,
    encoder: str,
    tile: int,
    overlap: float,
    batch: int,
    result: str,
    buffered: bool,
    fast: bool,
) -> Candidate:
    """By MONAI's sliding_window_inference.

    Args:
        image: The image, a file of numpy.
        encoder: Name of the encoder.
        tile: Side of the tiles.
        overlap: Share of a tile that it has in common with the next.
        batch: Tiles in a batch.
        result: Where the probabilities go, a file of numpy.
        buffered: Its way of the least memory.
        fast: Whether it gets segkit's network for inference, which leaves the tiling to compare;
            else the network as its architecture says it.
    """
    from monai.inferers import sliding_window_inference

    model = build_unet(encoder, tile)
    facts = Facts(model)
    if fast:
        model = for_inference(model)
    pixels: NDArray[np.uint8] = np.load(image)
    kept: dict[str, Any] = {}

    def probabilities(tiles: Tensor) -> Tensor:
        return torch.sigmoid(model(tiles))

    def whole(part: NDArray[np.uint8]) -> Tensor:
        with (
            torch.inference_mode() if fast else torch.no_grad(),
            nullcontext() if fast else plain_joins(),
        ):
            return sliding_window_inference(
                torch.from_numpy(part).float().div_(255)[None, None],
                (tile, tile),
                batch,
                probabilities,
                overlap=overlap,
                mode="gaussian",
                buffer_steps=BUFFER if buffered else None,
                buffer_dim=0,
            )

    def run() -> None:
        kept.clear()
        maps = whole(pixels)
        kept["labels"] = (maps[0, 0] > 0.5).to(torch.uint8).numpy()
        kept["probabilities"] = maps[0].numpy()

    whole(pixels[: 2 * tile, : 2 * tile])  # warm
    return Candidate(run, _facts(facts, encoder, tile, pixels, overlap, kept, result))


class _InMemory:
    """An array as an image that is read by windows."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels[..., None]
        self.shape = self._pixels.shape

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return self._pixels[top : top + height, left : left + width]


def _put(labels: NDArray[np.uint8], top: int, left: int, block: NDArray[np.uint8]) -> None:
    labels[top : top + block.shape[0], left : left + block.shape[1]] = block


def _facts(
    facts: Facts,
    encoder: str,
    tile: int,
    pixels: NDArray[np.uint8],
    overlap: float,
    kept: dict[str, Any],
    result: str,
) -> Callable[[], dict[str, Any]]:
    """Saves the probabilities, and counts the work of all tiles from that of one."""

    def say() -> dict[str, Any]:
        if "probabilities" in kept:
            np.save(result, kept["probabilities"][0])
        kept.clear()
        model = build_unet(encoder, tile)
        grid = plan_grid(*pixels.shape, find_windows(model, tile), overlap)
        tiles = len(grid.rows.starts) * len(grid.columns.starts)
        with torch.no_grad():
            window = torch.zeros(1, 1, grid.rows.window, grid.columns.window)
            one = facts.of(lambda: model(window))()
        window_said = f"{grid.rows.window} x {grid.columns.window}"
        many = {key: tiles * one[key] for key in ("flops", "bytes")}
        return {**one, **many, "tiles": tiles, "window": window_said}

    return say


def make_texture(image: Path | None, side: int) -> NDArray[np.uint8]:
    """A large image whose tiles are not alike: a small one, repeated with an offset."""
    small = draw(1, (1000, 1000)).image if image is None else read_image(image)
    if small.dtype != np.uint8:
        raise SegkitError(f"--image {image} is {small.dtype}: give an image of 8 bits.")
    small = small[..., 0]
    height, width = small.shape
    large = np.empty((side, side), np.uint8)
    for top in range(0, side, height):
        for left in range(0, side, width):
            field = np.roll(small, (top // 7, left // 11), (0, 1))
            large[top : top + height, left : left + width] = field[: side - top, : side - left]
    return large


def list_cases(options: Any, folder: Path) -> list[Case]:
    """All that is compared; the second overlap only with what counts, as it takes longer."""
    made = []
    for number, overlap in enumerate(options.overlaps):
        common = {
            "image": str(folder / "image.npy"),
            "encoder": options.encoder,
            "tile": options.tile,
            "overlap": overlap,
        }
        plain = {"batch": options.batch, "buffered": False, "fast": False}
        ways: dict[str, tuple[Callable[..., Candidate], dict[str, Any]]] = {
            OURS: (prepare_segkit, {"windows": False}),
            MONAI: (prepare_monai, plain),
        }
        if number == 0:
            ways["segkit by windows"] = (prepare_segkit, {"windows": True})
            ways["monai, batches of 1"] = (prepare_monai, {**plain, "batch": 1})
            ways["monai buffered"] = (prepare_monai, {**plain, "buffered": True})
            ways["monai, segkit's network"] = (prepare_monai, {**plain, "fast": True})
        specs = {
            name: Spec(
                function,
                {**common, **more, "result": str(folder / f"{overlap}-{i}.npy")},
                threads=options.threads,
            )
            for i, (name, (function, more)) in enumerate(ways.items())
        }
        rounds = options.rounds if number == 0 else max(1, options.rounds // 2)
        most = MOST if number == 0 else {MONAI: MOST[MONAI]}
        made.append(
            Case(f"{options.side} x {options.side}, overlap {overlap}", specs, most, rounds)
        )
    return made


def list_differences(done: Comparison) -> list[dict[str, object]]:
    """How far the probabilities of all are from ours."""
    rows: list[dict[str, object]] = []
    for case in done.cases:
        ours = Path(case.specs[OURS].arguments["result"])
        facts = done.found[case.name][OURS].facts
        for name, spec in case.specs.items():
            theirs = Path(spec.arguments["result"])
            if name == OURS or not (ours.exists() and theirs.exists()):
                continue
            apart = np.abs(np.load(ours, "r") - np.load(theirs, "r"))
            rows.append(
                {
                    "case": case.name,
                    "against": name,
                    "largest difference": float(apart.max()),
                    "mean": float(apart.mean()),
                    "tiles": f"{format_cell(facts['tiles'])} of {facts['window']}",
                }
            )
    return rows


def main() -> None:
    parser = make_network_parser(str(__doc__), rounds=2, warm_up=0)
    parser.add_argument("--image", type=Path, help="a picture of 8 bits; drawn cells if left out")
    parser.add_argument("--side", type=int, default=4096, help="of the large image, in pixels")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--batch", type=int, default=4, help="tiles in a batch of MONAI's")
    parser.add_argument("--encoder", default="resnet18")
    options = parser.parse_args()
    require_peers("monai")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "image.npy", make_texture(options.image, options.side))
        done = compare_cases(list_cases(options, folder), options)
        same = Section("The same results", list_differences(done), [SAME])
    sections = [*done.make_sections(MEMORY), same]
    options.image = options.image.name if options.image else "drawn cells"
    notes = [f"U-Net with {options.encoder}, random weights. {WHAT.format(options.batch)}"]
    title = "Large images in tiles against MONAI"
    publish("tiled", title, options, done.machine, sections, notes, done.as_data())


WHAT = (
    "From an image of 8 bits in memory to probabilities and labels. `monai` is"
    " sliding_window_inference with Gaussian weights as its users run it (eval, no_grad), in"
    " batches of {}, on the network as its architecture says it; segkit plans its batches itself"
    " and takes tiles of this size one by one on a CPU. `monai, segkit's network` is the same on"
    " the network that segkit itself runs (folded, channels_last), which leaves the tiling to"
    " compare. `segkit by windows` keeps labels alone."
)
MEMORY = (
    "Megabytes are those above the imports, while it runs: the network, the image of 8 bits and the"
    " results are in them."
)
SAME = (
    "Where tiles do not divide the image evenly, MONAI moves the last one back and segkit spreads"
    " all of them: then the results differ by what the network says of other tiles."
)

if __name__ == "__main__":
    run_script(main)
