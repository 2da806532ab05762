"""Write a data set as plain images and masks: PNG where possible, else TIFF."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from segkit.checkpoint.values import LabelCoding, find_empty
from segkit.config.schema import Data, Part
from segkit.config.settings import DataConvertSettings
from segkit.core.errors import SegkitError
from segkit.core.files import make_folder, write_whole
from segkit.core.labels import IGNORE_INDEX
from segkit.data.checks.summary import DataSummary, summarize
from segkit.data.sources.base import DataSource, Sample, Split
from segkit.images.formats.base import list_parts
from segkit.images.writing import FAST, write_mask
from segkit.inspection.findings import choose_class_colors
from segkit.inspection.opening import DataSet, open_data_set
from segkit.report.colors import format_color
from segkit.report.table import write_csv

RECORD = "conversion.json"
"""The file that marks a folder as a conversion, and says of what."""
FOLDERS: dict[Split, str] = {"train": "train", "val": "val", "test": "test"}
MOST_IN_PNG = 2**16 - 1
"""The largest id that a PNG holds."""


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        samples: Number of samples.
        written: How many of them were not there before.
        data: The config that trains on them.
        head: The head that learns them.
    """

    samples: int
    written: int
    data: Data
    head: Part


@dataclass(frozen=True)
class Item:
    """A sample and the files that it becomes, without their endings."""

    sample: Sample
    split: Split
    image: Path
    mask: Path


def convert(settings: DataConvertSettings) -> Conversion:
    """Convert a data set; what an interrupted run has finished is kept.

    Raises:
        SegkitError: The data cannot be used for a training, the folder holds something else or the
            data themselves, or files cannot be written.
    """
    data = open_data_set(settings)
    needed: tuple[Split, ...] = ("train",)
    summary = summarize(data.source, data.mode, data.facts, data.splits, data.num_classes, needed)
    output = settings.output
    items = list(plan_items(data, output, settings.layout))
    _require_other_folder(data, output)
    settled = json.dumps(_describe_work(settings, data, items), indent=2)
    _claim(output, settled, settings.overwrite)
    fresh = [item for item in items if settings.overwrite or not is_finished(item)]

    def write(item: Item) -> None:
        write_sample(data.source, summary, item)

    console = Console()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in track(
                pool.map(write, fresh),
                "converting",
                total=len(fresh),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all of them
            raise
    colors = choose_class_colors(data, summary.num_classes)
    write_csv(
        output / "classes.csv",
        [
            {"label": label, "name": name, "color": format_color(colors[label]), "share": share}
            for label, (name, share) in enumerate(
                zip(summary.class_names, summary.class_share, strict=True)
            )
        ],
    )
    if settings.layout == "csv":
        rows = [
            {
                "image": find_written(item.image, item).relative_to(output).as_posix(),
                "mask": find_written(item.mask, item).relative_to(output).as_posix(),
                "split": item.split,
            }
            for item in items
        ]
        write_csv(output / "pairs.csv", rows)
    head = settings.head or Part(name=data.mode)
    return Conversion(len(items), len(fresh), describe_result(settings, data, summary), head)


def plan_items(data: DataSet, output: Path, layout: str) -> Iterator[Item]:
    """The samples with the files that they become; no two samples share one."""
    stems = [
        (sample, split, _split_name(sample.name))
        for split, part in data.splits.items()
        for sample in part
    ]
    last = [parts[-1].lower() for _, _, parts in stems]
    # Folders are part of the name only where it needs them. Some file systems ignore case.
    short = len(set(last)) == len(last)
    taken: set[str] = set()
    for sample, split, parts in stems:
        stem = parts[-1] if short else "_".join(parts)
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        folder = output if layout == "csv" else output / FOLDERS[split]
        yield Item(sample, split, folder / "images" / name, folder / "masks" / name)


def _split_name(name: str) -> list[str]:
    """The parts of a sample's name, as they can be parts of a file's."""
    path, mark, page = name.partition("#")
    parts = [*PurePosixPath(path).parts[:-1], PurePosixPath(path).stem]
    parts[-1] += f"_{page}" if mark else ""
    return [re.sub(r'[\\/:*?"<>|\s]+', "_", part) for part in parts if part not in ("/", "..")]


def write_sample(source: DataSource, summary: DataSummary, item: Item) -> None:
    """Write the mask and then the image of a sample: an image means that both are there."""
    image, mask = source.read_image(item.sample), source.read_mask(item.sample)
    empty = find_empty(image)
    labels: NDArray[np.integer[Any]]
    if source.instances and mask.ndim == 2:
        labels = keep_ids(mask, summary.coding, empty)
    else:
        labels = summary.coding.encode(mask)
        if empty is not None:
            labels[empty] = IGNORE_INDEX
    _remove_others(item.mask)
    if labels.ndim == 3:
        write_mask(item.mask.with_name(item.mask.name + ".tif"), np.moveaxis(labels, 2, 0))
    else:
        suffix = ".tif" if labels.max(initial=0) > MOST_IN_PNG else ".png"
        write_mask(item.mask.with_name(item.mask.name + suffix), labels)
    _remove_others(item.image)
    content, suffix = encode_image(np.ma.getdata(image))
    write_whole(item.image.with_name(item.image.name + suffix), content)


def keep_ids(
    mask: NDArray[Any], coding: LabelCoding, empty: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Ids as they are, 255 where pixels are not labelled; an object 255 gets the next free id."""
    found, places = np.unique(mask, return_inverse=True)
    labels = [coding.label_of(int(value)) for value in found]
    new = np.where(np.array(labels) == 1, found.astype(np.int64), labels)
    objects = np.array(labels) == 1
    new[objects & (found == IGNORE_INDEX)] = max(IGNORE_INDEX, int(new.max(initial=0))) + 1
    ids = new[places].reshape(mask.shape)
    if empty is not None:
        ids[empty] = IGNORE_INDEX
    return ids


def encode_image(image: NDArray[Any]) -> tuple[bytes, str]:
    """The content of a file with the values of an image (H, W, C), and the file's ending."""
    count = image.shape[2]
    if image.dtype in (np.uint8, np.uint16) and count in (1, 3):
        flat = np.ascontiguousarray(image[..., 0] if count == 1 else image)
        return bytes(imagecodecs.png_encode(flat, level=FAST)), ".png"
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(image[..., 0] if count == 1 else image),
        photometric="rgb" if count == 3 else "minisblack",
        planarconfig="contig" if count > 1 else None,
        compression="zlib",
        metadata=None,
    )
    return buffer.getvalue(), ".tif"


def is_finished(item: Item) -> bool:
    """Whether both files are there, and not older than those that they were made of."""
    written = [_find(path) for path in (item.image, item.mask)]
    if None in written:
        return False
    made = min(path.stat().st_mtime for path in written if path is not None)
    given = [path for path in (item.sample.image, item.sample.mask) if path is not None]
    files = (file for path in given for file in list_parts(path))
    return all(file.stat().st_mtime <= made for file in files)


def find_written(path: Path, item: Item) -> Path:
    """A file with its ending."""
    found = _find(path)
    if found is None:
        raise SegkitError(
            f"{item.sample.name}: the converted file {path} is gone. Run the command again."
        )
    return found


def describe_result(settings: DataConvertSettings, data: DataSet, summary: DataSummary) -> Data:
    """The config that trains on the converted set."""
    output = settings.output
    options: dict[str, Any] = {"name": "folder"}
    options |= {"pairs": output / "pairs.csv"} if settings.layout == "csv" else {"root": output}
    if data.source.instances:
        options["instances"] = True
    values = {value for each in data.facts for value in each.values}
    if any(each.empty for each in data.facts) or any(
        summary.coding.label_of(value) == IGNORE_INDEX for value in values
    ):  # else 255 could be read as class 1, or as an object
        options["label_map"] = {IGNORE_INDEX: IGNORE_INDEX}
    if data.source.class_names is not None and not data.source.instances:
        options["class_names"] = list(summary.class_names)
    return Data.model_validate(options)


def _find(path: Path) -> Path | None:
    for suffix in (".png", ".tif"):
        file = path.with_name(path.name + suffix)
        if file.is_file():
            return file
    return None


def _remove_others(path: Path) -> None:
    """Remove what an earlier run has left, as its ending may be another one."""
    for suffix in (".png", ".tif"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _describe_work(
    settings: DataConvertSettings, data: DataSet, items: list[Item]
) -> dict[str, Any]:
    """What tells whether a conversion is the same as an earlier one."""
    chosen = settings.model_dump(mode="json", include={"data", "layout"})
    files = [item.image.relative_to(settings.output).as_posix() for item in items]
    return {"made by": "segkit.data convert", "head": data.mode, **chosen, "images": files}


def _claim(output: Path, settled: str, overwrite: bool) -> None:
    """Mark the folder as this conversion's, if it is empty, its own or may be overwritten."""
    record = output / RECORD
    before = record.read_text("utf-8") if record.is_file() else None
    if before == settled and not overwrite:
        return
    if output.exists() and not output.is_dir():
        raise SegkitError(f"output={output} is a file: name a folder.")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            what = (
                "holds a conversion of other data or with other options"
                if before is not None
                else f"is not empty, and no conversion: it has no {RECORD}"
            )
            raise SegkitError(
                f"output={output} {what}. Name another folder, or add overwrite=true, which"
                " replaces files of the same names."
            )
        if before is not None:
            _remove_earlier(output, before)
    make_folder(output)
    write_whole(record, settled)


def _remove_earlier(output: Path, before: str) -> None:
    """Remove the images and masks of an earlier conversion, which this one need not have."""
    try:
        names = [str(name) for name in json.loads(before)["images"]]
    except (ValueError, LookupError, TypeError):
        return
    for name in names:
        image = output / name
        mask = image.parents[1] / "masks" / image.name
        if output.resolve() in image.resolve().parents and image.parent.name == "images":
            _remove_others(image)
            _remove_others(mask)


def _require_other_folder(data: DataSet, output: Path) -> None:
    """Refuse a folder in which the data lie."""
    here = output.resolve()
    for part in data.splits.values():
        for sample in part:
            for path in (sample.image, sample.mask):
                if path is not None and here in path.resolve().parents:
                    raise SegkitError(
                        f"output={output} is the folder of the data set itself, with {path}: name"
                        " another one, so that nothing of it is overwritten."
                    )
