"""Elastic deformation of the 2015 U-Net: bicubic interpolation of a coarse displacement grid."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Annotated, Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it accesses the network

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from pydantic import Field
from scipy.interpolate import CubicSpline

from segkit.core.labels import IGNORE_INDEX

_AT_ONCE = 4
"""Maximum number of channels that OpenCV warps in one call."""


def interpolate_grid(
    nodes: NDArray[np.floating[Any]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate the displacements of a coarse grid to every pixel.

    The outermost nodes lie on the centers of the outermost pixels, the others are evenly spaced.
    The interpolant is the tensor product of natural cubic splines, S_y D S_x^T: it passes through
    every node, has continuous second derivatives and reproduces planes.

    Args:
        nodes: (..., G, G') displacements of the nodes in pixels, at least 2 each way.
        size: Height and width in pixels.

    Returns:
        (..., H, W), in pixels.
    """
    rows, columns = (_spline(n, m) for n, m in zip(nodes.shape[-2:], size, strict=True))
    field: NDArray[np.float32] = rows @ nodes.astype(np.float32) @ columns.T
    return field


class ElasticGrid(A.DualTransform):  # type: ignore[misc]  # albumentations has no types
    """Random displacements of the nodes of a coarse grid, interpolated bicubically.

    U-Net (Ronneberger et al. 2015, section 3.1) draws them on 3 by 3 nodes from a Gaussian with a
    standard deviation of 10 pixels. Such a grid spans the crop, so the same ``std`` bends a small
    crop more strongly than a large one; with a ``spacing`` crops of all sizes are bent alike.
    Images are interpolated bilinearly, masks by nearest neighbour. The rotation is part of the same
    step, so that images and masks are resampled only once.

    Args:
        grid: Number of nodes along each side if there is no spacing.
        spacing: Approximate distance between two nodes in pixels.
        std: Standard deviation of each coordinate of the displacements, in pixels.
        rotate: Maximum rotation about the center in degrees, either way.
        border: What the image shows beyond its border: "mirror" or "constant" (0). Masks are
            IGNORE_INDEX there.
        p: Probability.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """The options as albumentations checks them."""

        grid: Annotated[int, Field(ge=2)]
        spacing: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None
        std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
        rotate: Annotated[float, Field(ge=0, le=180)]
        border: Literal["mirror", "constant"]

    def __init__(
        self,
        grid: int = 3,
        spacing: float | None = None,
        std: float = 10.0,
        rotate: float = 0.0,
        border: Literal["mirror", "constant"] = "mirror",
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.grid, self.spacing, self.std = grid, spacing, std
        self.rotate, self.border = rotate, border

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """``x`` and ``y``, (H, W): the source column and row of each pixel of the result."""
        height, width = params["shape"][:2]
        counts = [
            max(2, round((side - 1) / self.spacing) + 1) if self.spacing else self.grid
            for side in (height, width)
        ]
        nodes = self.random_generator.normal(0, self.std, (2, *counts))
        x, y = interpolate_grid(nodes, (height, width))
        angle = np.deg2rad(self.random_generator.uniform(-self.rotate, self.rotate))
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        center_x, center_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
        columns = np.arange(width, dtype=np.float32) - center_x
        rows = np.arange(height, dtype=np.float32)[:, None] - center_y
        x += center_x + (cos * columns - sin * rows)
        y += center_y + (sin * columns + cos * rows)
        return {"x": x, "y": y}

    def apply(
        self, img: NDArray[Any], x: NDArray[np.float32], y: NDArray[np.float32], **params: Any
    ) -> NDArray[Any]:
        """Warp (H, W) or (H, W, C), uint8 or float32."""
        mirrored = self.border == "mirror"
        border = cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT
        return _warp(img, x, y, cv2.INTER_LINEAR, border, 0)

    def apply_to_mask(
        self, mask: NDArray[Any], x: NDArray[np.float32], y: NDArray[np.float32], **params: Any
    ) -> NDArray[Any]:
        """Warp labels or ids, (H, W) or (H, W, N), uint8, uint16 or float32."""
        return _warp(mask, x, y, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE_INDEX)


@lru_cache(maxsize=16)
def _spline(nodes: int, length: int) -> NDArray[np.float32]:
    """(length, nodes): the weight of each node at each pixel, by natural cubic splines."""
    # the splines through 1 at one node and 0 at the others
    spline = CubicSpline(np.arange(nodes), np.eye(nodes), bc_type="natural")
    weights: NDArray[np.float32] = spline(np.linspace(0, nodes - 1, length)).astype(np.float32)
    return weights


def _warp(
    values: NDArray[Any],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    interpolation: int,
    border: int,
    fill: int,
) -> NDArray[Any]:
    channels = values[..., None] if values.ndim == 2 else values
    parts = [
        cv2.remap(
            np.ascontiguousarray(channels[..., first : first + _AT_ONCE]),
            x,
            y,
            interpolation,
            borderMode=border,
            borderValue=(fill,) * _AT_ONCE,
        )
        for first in range(0, channels.shape[2], _AT_ONCE)
    ]
    return np.dstack(parts).reshape(values.shape)
