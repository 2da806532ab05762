"""The export command: a checkpoint as a file of another runtime, from top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from rich.console import Console

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.config.settings import ExportSettings, parse_settings
from segkit.core.ensembles import is_ensemble, list_checkpoints
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, name_temporary, remove_tree
from segkit.core.interrupts import TimeIsOver, limit_time
from segkit.core.memory import limit_pixels
from segkit.export.averaging import AverageNetwork, combine
from segkit.export.checking import check
from segkit.export.formats import (
    ENDINGS,
    Format,
    describe_average,
    list_files,
    write_network,
    write_onnx,
)
from segkit.export.images import RealImages, cut_window, find_real_images
from segkit.export.quantization import measure, quantize
from segkit.inference.predictor import load
from segkit.inference.runtimes.exported import Contents
from segkit.inference.runtimes.network import Network
from segkit.inference.runtimes.torch_network import TorchNetwork, find_windows
from segkit.inference.tiles.tiling import choose_side
from segkit.models.cost import peak_bytes
from segkit.models.segmenter import Segmenter

if TYPE_CHECKING:
    from onnx import ModelProto


def export(config: DictConfig) -> Path:
    """Write a checkpoint as a file of another runtime, if the file computes the same.

    Of several checkpoints it computes the mean of their probabilities.

    Returns:
        The file.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, the network cannot be exported, or
            the file does not compute the same; nothing is written then.
    """
    settings = parse_settings(ExportSettings, config)
    limit_pixels(settings.max_pixels)
    files = list_checkpoints(settings.checkpoint)
    _require_options(settings, len(files))
    kind, path = _choose_target(settings, files)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    models, cards = zip(*map(checkpoint.read, files), strict=True)
    contents = combine(
        [
            describe_model(model, card, settings.normalize, settings.activate)
            for model, card in zip(models, cards, strict=True)
        ]
    )
    real = find_real_images(cards[0], settings.input)
    if real.note:
        console.print(f"  note: {real.note}")
    if settings.size is not None:
        contents = fix_size(contents, settings.size)
    console.print("tracing the network, which can take a minute")
    with _make_draft(path) as draft:
        try:
            limit = settings.time_limit and settings.time_limit * len(models)
            limit = None if contents.windows.fixed else limit
            proto, network = _write_checked(models, contents, kind, draft, real, console, limit)
        except SegkitError as error:
            windows = contents.windows
            if windows.fixed or windows.context:
                raise SegkitError(f"{path} was not written. {error}") from error
            height, width = (windows.fit(side) for side in contents.card.img_size)
            console.print(f"  note: it cannot be exported for all sizes: {error}")
            console.print(
                f"  note: trying {height} x {width} alone, the size of the training crops. The"
                " predictor cuts images into tiles of it, and pads smaller ones with their mirror"
                " image"
            )
            contents = fix_size(contents, (height, width))
            try:
                proto, network = _write_checked(models, contents, kind, draft, real, console)
            except SegkitError as second:
                raise SegkitError(f"{path} was not written. {second}") from second
        if proto is not None and settings.quantize != "none":
            _quantize(settings, kind, proto, contents, real, network, draft, console)
        size = sum(file.stat().st_size for file in list_files(kind, draft))
        _publish(kind, draft, path)
    console.print(f"{path}: {_describe_graph(contents)}, {size / 1e6:.1f} MB")
    return path


def _write_checked(
    models: Sequence[Segmenter],
    contents: Contents,
    kind: Format,
    draft: Path,
    real: RealImages,
    console: Console,
    limit: float | None = None,
) -> tuple[ModelProto | None, Network]:
    """Write the file, read and compare it; returns the ONNX model too if there is one.

    Raises:
        SegkitError: It cannot be written, not in ``limit`` seconds, or computes something else.
    """
    try:
        with limit_time(limit):
            proto = write_network(models, contents, kind, draft)
    except TimeIsOver:
        assert limit is not None
        each = " for each network" if len(models) > 1 else ""
        raise SegkitError(
            f"that takes longer than time_limit={limit / len(models):g} seconds{each}, as formulas"
            " of the size grow from layer to layer."
        ) from None
    finally:
        torch.compiler.reset()  # what an attempt has left must not reach the next one
    network = load(draft, "cpu", instances=None).networks[0]
    side, pairs = contents.windows.side, zip(models, contents.cards, strict=True)
    reference = AverageNetwork([TorchNetwork(*pair, "cpu", side, batch_size=1) for pair in pairs])
    for found in check(reference, network, contents, real):
        console.print(f"checked on {found}")
    return proto, network


def fix_size(contents: Contents, size: tuple[int, int]) -> Contents:
    """The same for images of one size only.

    Some graphs are valid for one size, such as those that resample a position embedding.

    Raises:
        SegkitError: The network does not take that size.
    """
    windows = contents.windows
    if windows.context:
        raise SegkitError(
            "size: an unpadded network is exported for all of its sizes: omit the option."
        )
    height, width = windows.fixed or (windows.fit(size[0]), windows.fit(size[1]))
    if (height, width) != size:
        raise SegkitError(
            f"size={list(size)}: the network cannot take {size[0]} x {size[1]} pixels. Give"
            f" size=[{height},{width}]."
        )
    if windows.fixed:
        return contents
    return replace(contents, windows=replace(windows, side=max(size), fixed=size))


def describe_model(
    model: Segmenter, card: ModelCard, normalizes: bool, activates: bool
) -> Contents:
    """Collect the metadata of the file."""
    return Contents(
        card=card,
        windows=find_windows(model, choose_side(card)),
        normalizes=normalizes,
        activates=activates,
        bytes_per_pixel=peak_bytes(model, card.in_channels),
        versions=checkpoint.find_versions(),
    )


def _quantize(
    settings: ExportSettings,
    kind: Format,
    proto: ModelProto,
    contents: Contents,
    real: RealImages,
    network: Network,
    draft: Path,
    console: Console,
) -> None:
    """Replace the file by one in int8 if that is faster and loses little IoU."""
    tiles = [cut_window(image, contents.windows) for image in real.images]
    batches = [network.load_batch([network.prepare(tile)]) for tile in tiles]
    folder = draft.parent / "int8"
    folder.mkdir()
    for keep_ends in (False, True):
        smaller = quantize(proto, contents, batches, folder, keep_ends=keep_ends)
        candidate = folder / draft.name
        write_onnx(smaller, replace(contents, precision="int8"), kind, candidate)
        quantized = load(candidate, "cpu", instances=None).networks[0]
        result = measure(network, quantized, real, tiles)
        ends = ", first and last layer in float32" if keep_ends else ""
        console.print(f"{result}{ends}")
        if result.loss <= settings.max_iou_loss:
            break
    reasons = []
    if not result.is_faster:
        reasons.append("int8 is not faster than float32 on this machine")
    if result.loss > settings.max_iou_loss:
        reasons.append(f"int8 loses more IoU than max_iou_loss={settings.max_iou_loss:g}")
    if reasons and settings.quantize == "int8":
        console.print(
            f"{' and '.join(reasons)}: the file stays float32; quantize=int8_always forces it"
        )
        return
    if reasons:
        console.print(f"{' and '.join(reasons)}: the file is int8 anyway, as requested")
    for file in list_files(kind, candidate):
        file.replace(draft.parent / file.name)


def _require_options(settings: ExportSettings, count: int) -> None:
    """Raise a SegkitError if an option cannot be used on ``count`` networks."""
    if count == 1:
        return
    reasons = {
        "normalize": "each of them normalizes images by its own numbers",
        "activate": "the mean of their probabilities is not that of their logits",
    }
    problems = [
        f"{name}=false with {count} networks in one file: {reason}. Leave it out, or export one of"
        " the checkpoints."
        for name, reason in reasons.items()
        if not getattr(settings, name)
    ]
    if problems:
        raise all_at_once("the file cannot be written:", problems)


def _choose_target(settings: ExportSettings, files: list[Path]) -> tuple[Format, Path]:
    """The format and the file; either may determine the other."""
    kind, path = settings.format, settings.output
    if kind is None:
        suffix = ".onnx" if path is None else path.suffix
        kind = next((name for name, ending in ENDINGS.items() if ending == suffix), None)
        if kind is None:
            known = ", ".join(f"{ending} ({name})" for name, ending in ENDINGS.items())
            raise SegkitError(f"output={path}: the suffix determines the format, one of {known}.")
    if path is None:
        given = settings.checkpoint[0]
        if len(settings.checkpoint) > 1:
            raise SegkitError(
                f"output: name the file for these {len(files)} checkpoints, such as"
                f" output=ensemble{ENDINGS[kind]}."
            )
        path = checkpoint.find_run_folder(files[0]) / f"model{ENDINGS[kind]}"
        if is_ensemble(given):
            path = given.with_suffix(ENDINGS[kind])
    if path.suffix != ENDINGS[kind]:
        raise SegkitError(
            f"output={path}: the file of format={kind} ends in {ENDINGS[kind]}. Give"
            f" output={path.with_suffix(ENDINGS[kind])}."
        )
    if path.is_dir():
        raise SegkitError(f"output={path} is a folder: name a file in it.")
    if kind == "torch_export" and settings.quantize != "none":
        raise SegkitError(
            f"quantize={settings.quantize} is for format=onnx and format=openvino: use one of them."
        )
    return kind, path


@contextmanager
def _make_draft(path: Path) -> Iterator[Path]:
    """A path for the file until it is checked, in a temporary folder beside its final one."""
    make_folder(path.parent)
    folder = name_temporary(path)
    try:
        folder.mkdir()
    except OSError as error:
        raise SegkitError(
            f"the folder '{path.parent}' cannot be written to: {error.strerror or error}. Name"
            " another one with output=FILE."
        ) from error
    try:
        yield folder / path.name
    finally:
        remove_tree(folder)


def _publish(kind: Format, draft: Path, path: Path) -> None:
    """Move the finished files to their places, all or none."""
    moved: list[tuple[Path, Path]] = []
    try:
        for file in list_files(kind, draft):
            target, kept = path.with_suffix(file.suffix), draft.parent / f"before{file.suffix}"
            if target.is_file():
                shutil.copy2(target, kept)
            file.replace(target)
            moved.append((target, kept))
    except OSError as error:
        for target, kept in moved:
            if kept.exists():
                kept.replace(target)
            else:
                target.unlink()
        raise SegkitError(
            f"cannot write '{path}': {error.strerror or error}. Name another file with output=FILE."
        ) from error


def _describe_graph(contents: Contents) -> str:
    """Inputs and outputs of the graph in words."""
    windows = contents.windows
    height, width = windows.fixed or ("height", "width")
    unit = "intensities as in the training" if contents.normalizes else "normalized intensities"
    text = f"batch x {contents.card.in_channels} x {height} x {width} {unit} to {contents.output}"
    if contents.card.tells_objects:
        text += " of the classes and numbers of the objects, 0 for none"
    text += describe_average(contents)
    if windows.context:
        smallest = windows.smallest + 2 * windows.context
        text += f", sides of {smallest} + {windows.step} k pixels, {2 * windows.context} less out"
    return text
