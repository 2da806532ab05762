"""Images without masks, from which a training learns by pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.values import Normalization
from segkit.core.errors import SegkitError, all_at_once
from segkit.data.checks.problems import shorten
from segkit.data.layout.files import describe_unread, list_files
from segkit.data.sources.base import Sample
from segkit.images.raster import convert_channels
from segkit.images.reading import ImageReader


class UnlabeledImages:
    """The images below a folder, each page of a file by itself, as a trained network takes them.

    Args:
        root: The folder.
        normalization: The intensities of the labelled images.
        upright: Whether images are turned as their EXIF orientation says.

    Raises:
        SegkitError: There is no such folder, or no image in it.
    """

    def __init__(self, root: Path, normalization: Normalization, upright: bool) -> None:
        self.normalization, self.upright = normalization, upright
        if not root.is_dir():
            raise SegkitError(f"data.unlabeled: there is no folder {root.resolve()}.")
        files = list_files(root)
        if not files.images:
            raise SegkitError(describe_unread(files, f"data.unlabeled={root}", "images") + ".")
        self.samples, problems = list[Sample](), list[str]()
        for name in files.images:
            try:
                pages = self._count_pages(root / name)
            except SegkitError as error:
                problems.append(str(error))
                continue
            self.samples += [
                Sample(f"{name}, page {page}" if pages > 1 else name, root / name, page=page)
                for page in range(pages)
            ]
        if problems:
            raise all_at_once(f"data.unlabeled={root} has problems:", shorten(problems))

    def _count_pages(self, path: Path) -> int:
        """The pages of a file; also try whether the first one fits the labelled images."""
        with ImageReader(path, self.upright) as reader:
            self._convert(reader.read_image(0), path.name)
            return len(reader)

    def read(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) of the type of the labelled images; missing values are the mean.

        Raises:
            SegkitError: It cannot be read, or is no image of that kind.
        """
        assert sample.image is not None
        with ImageReader(sample.image, self.upright) as reader:
            return self._convert(reader.read_image(sample.page), sample.name)

    def _convert(self, image: NDArray[Any], name: str) -> NDArray[Any]:
        wanted = np.dtype(self.normalization.dtype)
        try:
            image = convert_channels(image, len(self.normalization.mean))
            image = self.normalization.convert(image)
        except SegkitError as error:
            raise SegkitError(f"{name}: {error}") from error
        if wanted.kind == "u" and image.dtype != wanted:
            image = np.clip(np.rint(image), 0, np.iinfo(wanted).max)
        return np.ascontiguousarray(np.ma.getdata(image).astype(wanted, copy=False))
