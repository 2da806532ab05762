"""What python -m segkit.export does, from top to bottom."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from omegaconf import DictConfig
from pydantic import BeforeValidator, Field
from rich.console import Console

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.config.settings import ExportSettings, parse_settings
from segkit.core.errors import SegkitError
from segkit.core.files import make_folder
from segkit.export.checking import Comparison, check, sizes_to_check
from segkit.export.images import RealImages, cut, find_real_images
from segkit.export.onnx_file import onnx_model, write_onnx
from segkit.export.openvino_file import write_openvino
from segkit.export.quantization import Quantized, measure, quantize
from segkit.export.torch_export_file import write_torch_export
from segkit.inference.runtimes.exported import Contents, ExportedNetwork
from segkit.inference.runtimes.network import Network
from segkit.inference.runtimes.torch_network import TorchNetwork, windows_of
from segkit.inference.tiles.tiling import SIDE
from segkit.models.cost import peak_bytes
from segkit.models.segmenter import Segmenter

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "openvino", "torch_export"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
Sources = Annotated[
    list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]

Side = Annotated[int, Field(ge=1)]
Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(lambda value: (value,) * 2 if isinstance(value, int) else value),
]


def export(config: DictConfig) -> Path:
    """Write a checkpoint as a file of another runtime, once it has proved to be the same network.

    Returns:
        The file.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, the network cannot be exported, or
            the file does not give what the network gives; nothing is written then.
    """
    settings = parse_settings(ExportSettings, config)
    kind, path = _target(settings)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    model, card = checkpoint.read(settings.checkpoint)
    real = find_real_images(card, settings.input)
    if real.note:
        console.print(f"  note: {real.note}")
    contents = describe(model, card, settings.normalize, settings.activate)
    if settings.size is not None:
        contents = _of_size(contents, settings.size)
    console.print("tracing the network, which can take a minute")
    with _draft(path) as draft:
        try:
            proto, network, found = _write_checked(model, contents, kind, draft, real)
        except SegkitError as error:
            windows = contents.windows
            if windows.fixed or windows.context:
                raise _not_written(path, error) from error
            height, width = (windows.fit(side) for side in card.img_size)
            console.print(f"  note: for any size it cannot be done: {error}")
            console.print(f"  note: trying {height} x {width}, the size of the training, alone")
            contents = _of_size(contents, (height, width))
            try:
                proto, network, found = _write_checked(model, contents, kind, draft, real)
            except SegkitError as second:
                raise _not_written(path, second) from second
        for one in found:
            console.print(f"checked on {one}")
        if settings.quantize != "none":
            assert proto is not None
            _quantize(settings, kind, proto, contents, real, network, draft, console)
        size = sum(file.stat().st_size for file in _files(kind, draft))
        _publish(kind, draft, path)
    console.print(f"{path}: {_shape(contents)}, {size / 1e6:.1f} MB")
    return path


def _write_checked(
    model: Segmenter, contents: Contents, kind: Format, draft: Path, real: RealImages
) -> tuple[ModelProto | None, ExportedNetwork, list[Comparison]]:
    """The ONNX model if there is one, what was read from the file, and how far it is off."""
    sizes = sizes_to_check(contents.windows)
    proto: ModelProto | None = None
    if kind == "torch_export":
        write_torch_export(model, contents, sizes, draft)
    else:
        proto = onnx_model(model, contents, sizes)
        _write(kind, proto, contents, draft)
    network = read(kind, draft)
    reference = TorchNetwork(model, contents.card, "cpu", contents.windows.side, batch_size=1)
    return proto, network, check(reference, network, contents, real)


def _of_size(contents: Contents, size: tuple[int, int]) -> Contents:
    """The same for images of one size alone.

    Some graphs hold for one size only, such as those that resample a position embedding.

    Raises:
        SegkitError: The network does not take that size.
    """
    windows = contents.windows
    if windows.fixed == size:
        return contents
    fit = (windows.fit(size[0]), windows.fit(size[1]))
    if windows.context:
        raise SegkitError(
            "size: an unpadded network is exported for all of its sizes: leave it out."
        )
    if windows.fixed or fit != size:
        height, width = windows.fixed or fit
        raise SegkitError(
            f"size={list(size)}: the network does not take {size[0]} x {size[1]} pixels as they"
            f" are. Give size=[{height},{width}]."
        )
    return replace(contents, windows=replace(windows, side=max(size), fixed=size))


def _not_written(path: Path, error: SegkitError) -> SegkitError:
    return SegkitError(f"{path} was not written. {error}")


def describe(model: Segmenter, card: ModelCard, normalizes: bool, activates: bool) -> Contents:
    """What the file of a network is to hold besides the graph."""
    return Contents(
        card=card,
        windows=windows_of(model, max(SIDE, *card.img_size)),
        normalizes=normalizes,
        activates=activates,
        bytes_per_pixel=peak_bytes(model, card.in_channels),
        versions=checkpoint.find_versions(),
    )


def read(kind: Format, path: Path) -> ExportedNetwork:
    """The network in a file, as ``segkit.load`` reads it, on the CPU."""
    if kind == "onnx":
        from segkit.inference.runtimes.onnx_network import OnnxNetwork

        return OnnxNetwork.read(path, "cpu")
    if kind == "openvino":
        from segkit.inference.runtimes.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork.read(path, "cpu")
    from segkit.inference.runtimes.torch_export_network import TorchExportNetwork

    return TorchExportNetwork.read(path, "cpu")


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
    """Put int8 in the place of the file in float32, where it is worth while."""
    tiles = [cut(image, contents.windows) for image in real.images]
    batches = [network.prepare(tile)[None] for tile in tiles]
    folder = draft.parent / "int8"
    folder.mkdir()
    result: Quantized
    for keep_ends in (False, True):
        smaller = quantize(proto, contents, batches, folder, keep_ends=keep_ends)
        candidate = folder / draft.name
        _write(kind, smaller, replace(contents, precision="int8"), candidate)
        result = measure(network, read(kind, candidate), real, tiles)
        ends = ", first and last layer in float32" if keep_ends else ""
        console.print(f"{result}{ends}")
        if result.loss <= settings.max_iou_loss:
            break
    always = settings.quantize == "int8_always"
    reasons = []
    if not result.is_faster:
        reasons.append("int8 is not faster than float32 on this machine")
    if result.loss > settings.max_iou_loss:
        reasons.append(f"int8 loses more IoU than max_iou_loss={settings.max_iou_loss:g}")
    if reasons and not always:
        console.print(f"{' and '.join(reasons)}: the file stays float32; quantize=int8_always asks")
        return
    if reasons:
        console.print(f"{' and '.join(reasons)}: the file is int8 all the same, as was asked")
    for file in _files(kind, candidate):
        file.replace(draft.parent / file.name)


def _write(kind: Format, proto: ModelProto, contents: Contents, path: Path) -> None:
    if kind == "onnx":
        write_onnx(proto, path)
    else:
        write_openvino(proto, contents, path)


def _target(settings: ExportSettings) -> tuple[Format, Path]:
    """The format and the file, of which one may say the other."""
    kind, path = settings.format, settings.output
    if kind is None:
        suffix = ".onnx" if path is None else path.suffix
        kind = next((name for name, ending in ENDINGS.items() if ending == suffix), None)
        if kind is None:
            known = ", ".join(f"{ending} ({name})" for name, ending in ENDINGS.items())
            raise SegkitError(f"output={path}: the ending says the format, one of {known}.")
    if path is None:
        beside = settings.checkpoint.parent
        beside = beside.parent if beside.name == "checkpoints" else beside
        path = beside / f"model{ENDINGS[kind]}"
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
def _draft(path: Path) -> Iterator[Path]:
    """Where the file is written before it is checked: in a folder beside, gone at the end."""
    make_folder(path.parent)
    try:
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    except OSError as error:
        raise SegkitError(
            f"the folder '{path.parent}' cannot be written to: {error.strerror or error}. Name"
            " another one with output=FILE."
        ) from error
    with folder as name:
        yield Path(name, path.name)


def _files(kind: Format, path: Path) -> list[Path]:
    return [path.with_suffix(".bin"), path] if kind == "openvino" else [path]


def _publish(kind: Format, draft: Path, path: Path) -> None:
    """Move the finished files to their place, all or none."""
    moved: list[tuple[Path, Path | None]] = []
    try:
        for file in _files(kind, draft):
            target, kept = path.with_suffix(file.suffix), None
            if target.exists():
                kept = draft.parent / f"before{file.suffix}"
                try:
                    os.link(target, kept)
                except OSError:  # a file system without hard links
                    shutil.copy2(target, kept)
            file.replace(target)
            moved.append((target, kept))
    except OSError as error:
        for target, kept in moved:
            if kept is None:
                target.unlink()
            else:
                kept.replace(target)
        raise SegkitError(
            f"cannot write '{path}': {error.strerror or error}. Name another file with output=FILE."
        ) from error


def _shape(contents: Contents) -> str:
    """What the graph takes, in words."""
    windows = contents.windows
    height, width = windows.fixed or ("height", "width")
    unit = "intensities as in the training" if contents.normalizes else "normalised intensities"
    text = f"batch x {contents.card.in_channels} x {height} x {width} {unit} to {contents.output}"
    if windows.context:
        smallest = windows.smallest + 2 * windows.context
        text += f", sides of {smallest} + {windows.step} k pixels, {2 * windows.context} less out"
    return text
