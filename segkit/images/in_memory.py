"""Images in memory, of the libraries that hold images, to arrays. No torch: a tensor brings it.

A numpy array is (H, W) or (H, W, C), a tensor of torch (H, W) or (C, H, W), as each of them is used
everywhere. A picture of Pillow is read as a file of it would be.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from segkit.core.errors import SegkitError
from segkit.images.formats.picture import convert_picture, read_orientation
from segkit.images.raster import require_room
from segkit.images.reading import render


@runtime_checkable
class Tensor(Protocol):
    """A tensor of torch, as far as it is needed here."""

    @property
    def shape(self) -> Any:
        """Its sizes."""

    def detach(self) -> Any:
        """Itself, without gradients."""


InMemory = NDArray[Any] | Picture | Tensor
"""A numpy array (H, W) or (H, W, C), a picture of Pillow, or a tensor (H, W) or (C, H, W)."""


def read_memory(
    image: InMemory, channels: int, keep_alpha: bool = False, upright: bool = True
) -> NDArray[Any]:
    """An image in memory as (H, W, C), with its own values.

    Args:
        image: Arrays and tensors of any type of numbers, on any device; what is masked has no data.
        channels: Those that are wanted, by which a tensor that is not (C, H, W) is recognized.
        keep_alpha: Whether an alpha channel of a picture is the last channel, and hides nothing.
        upright: Whether a picture is turned as its EXIF orientation says.

    Raises:
        SegkitError: It is not an image, or its axes have more than one meaning.
    """
    if isinstance(image, Picture):
        return _read_picture(image, keep_alpha, upright)
    is_tensor = _is_tensor(image)
    if not is_tensor and not isinstance(image, np.ndarray):
        raise SegkitError(
            "an image is a path, a numpy array (H, W) or (H, W, C), a PIL.Image, or a torch tensor"
            f" (H, W) or (C, H, W), not {type(image).__name__}. numpy.asarray(...) converts most"
            " other types."
        )
    shape = tuple(image.shape)
    if len(shape) not in (2, 3):
        what, axes = ("a tensor", "(C, H, W)") if is_tensor else ("an array", "(H, W, C)")
        raise SegkitError(
            f"an image is (H, W) or {axes}, not {what} of the shape {shape}."
            + " Several images are a list of them: list(batch)." * (len(shape) == 4)
        )
    if 0 in shape:
        raise SegkitError(f"the image has no pixels: its shape is {shape}.")
    if is_tensor:
        values = _read_tensor(image, {channels, *((1, 2, 3, 4) if channels in (1, 3) else ())})
    else:
        values = np.asanyarray(image)  # a masked array stays one
    return values[..., None] if values.ndim == 2 else values


def _is_tensor(image: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _read_picture(picture: Picture, keep_alpha: bool, upright: bool) -> NDArray[Any]:
    width, height = picture.size
    if 0 in (width, height):
        raise SegkitError(f"the image has no pixels: it is {width} x {height}.")
    require_room((height, width, len(picture.getbands())))  # pixels of a file are not decoded yet
    try:
        picture.load()
    except Exception as error:  # each plugin of Pillow has its own
        raise SegkitError(f"the pixels of the PIL.Image cannot be read: {error}.") from error
    orientation = read_orientation(picture) if upright else 1
    return render(convert_picture(picture)._replace(orientation=orientation), keep_alpha)


def _read_tensor(tensor: Any, fitting: Collection[int]) -> NDArray[Any]:
    """(H, W) -> (H, W), (C, H, W) -> (H, W, C)."""
    torch: Any = sys.modules["torch"]
    shape = tuple(tensor.shape)
    if len(shape) == 3:
        if shape[2] in fitting and shape[0] not in fitting:
            raise SegkitError(
                f"a tensor is (C, H, W), and this one of the shape {shape} seems to be (H, W, C):"
                " give tensor.permute(2, 0, 1)."
            )
        if shape[2] in fitting and shape != shape[::-1]:
            raise SegkitError(
                f"a tensor of the shape {shape} can be (C, H, W) or (H, W, C), as both ends could"
                " be channels: give it as a numpy array (H, W, C)."
            )
    if tensor.is_complex() or tensor.is_quantized or tensor.layout is not torch.strided:
        raise SegkitError(
            f"a tensor of the type {tensor.dtype} and the layout {tensor.layout} is not an image:"
            " give a dense one of whole or real numbers."
        )
    values = tensor.detach().cpu()
    if values.dtype == torch.bfloat16:  # which numpy does not have
        values = values.float()
    return np.asarray(values.numpy() if len(shape) == 2 else values.permute(1, 2, 0).numpy())
