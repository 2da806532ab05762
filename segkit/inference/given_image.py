"""What a predictor takes for an image, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.images.reading import count_pages, read_image

Image = Path | str | NDArray[Any]
"""A file, or an array (H, W) or (H, W, C) of 8 or 16 bit or float."""


def load_image(image: Image, page: int | None = None) -> NDArray[Any]:
    """An image as (H, W, C), as it is stored.

    Raises:
        SegkitError: It cannot be read, or is no image.
    """
    if isinstance(image, str | Path):
        try:
            return read_image(Path(image), page)
        except SegkitError as error:
            pages = _pages(Path(image)) if page is None else 1
            if pages == 1:
                raise
            raise SegkitError(
                f"{image}: the file has {pages} pages: say which, as in predictor({str(image)!r},"
                f" page=0), or page={pages - 1} for the last. python -m segkit.predict takes all"
                " of them."
            ) from error
    if not isinstance(image, np.ndarray):
        raise SegkitError(
            "an image is a path, or a numpy array (H, W) or (H, W, C), not"
            f" {type(image).__name__}: numpy.asarray(...) makes one of most things."
        )
    if image.ndim not in (2, 3):
        raise SegkitError(
            "an image is a path, or a numpy array (H, W) or (H, W, C), not one of the shape"
            f" {image.shape}."
        )
    if 0 in image.shape:
        raise SegkitError(f"the image has no pixels: its shape is {image.shape}.")
    return image[..., None] if image.ndim == 2 else image


def _pages(path: Path) -> int:
    """How many pages a file has that can be read; 1 where it cannot."""
    try:
        return count_pages(path)
    except SegkitError:
        return 1


def name_image(error: SegkitError | MemoryError, image: Image | None = None) -> SegkitError:
    """An error that names the image if it is a file. A MemoryError gets a message."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = "the image does not fit into memory."
    if isinstance(image, str | Path) and str(image) not in text:
        text = f"{image}: {text}"
    named = SegkitError(text)
    named.__cause__ = error
    return named
