"""The weight of each pixel in the loss, as in the U-Net paper."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from segkit.core.labels import IGNORE_INDEX
from segkit.targets.distance import measure_two_nearest

MOST_BALANCE = 10.0
"""Upper bound on the factor by which balancing raises the weight of a rare class."""

DROPPED = 1e-4
"""Values of the second term below this share of w0 become 0."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightMap:
    """Class balance, and more weight between objects that are close to each other.

    Ronneberger et al., "U-Net", 2015::

        w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

    d1 and d2 are the exact distances of the pixel x to the nearest and second nearest object, in
    pixels from centre to centre, and 0 inside the object. The second term keeps the background
    between objects open, so only pixels outside objects have it (a target may define these). It is
    0 where it would be below 1e-4 w0 (d1 + d2 > 4.29 sigma) and where there is no second object.

    w_c balances the classes of the crop: with n_c of its n pixels in class c, K classes present::

        v_c = min(n / (K n_c), 10)          w_c = v_c n / (sum over classes of v_c n_c)

    Classes then have equal total weights, the mean over the pixels is 1, and the few pixels of an
    object at the edge of a crop do not outweigh the rest. Unlabelled pixels have weight 0.

    Attributes:
        w0: Height of the second term; 0 leaves it out.
        sigma: Its width in pixels: 61 % of w0 are left at d1 + d2 = sigma, 14 % at 2 sigma.
        balance: Whether w_c balances the classes; otherwise it is 1.
    """

    w0: Annotated[float, Field(ge=0)] = 10.0
    sigma: Annotated[float, Field(gt=0)] = 5.0
    balance: bool = True

    def __call__(
        self,
        classes: NDArray[np.uint8],
        ids: NDArray[np.integer],
        outside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """The weights of an image, (H, W), 0 where ``classes`` are unlabelled.

        The second term is that of the objects of ``ids``, at the pixels ``outside`` or, without
        them, on the background.
        """
        labelled = classes != IGNORE_INDEX
        weight = balance_classes(classes)[classes] if self.balance else labelled.astype(np.float32)
        if self.w0 > 0:
            outside = ids == 0 if outside is None else outside
            reach = self.sigma * float(np.sqrt(-2 * np.log(DROPPED)))
            d1, d2 = measure_two_nearest(ids, reach)
            where = outside & labelled & (d1 + d2 <= reach)
            apart = (d1[where] + d2[where]) / np.float32(self.sigma)
            weight[where] += np.float32(self.w0) * np.exp(-apart * apart / 2)
        return weight


def balance_classes(classes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """w_c of :class:`WeightMap` for the labels 0 ... 255; 0 for absent ones."""
    pixels = np.bincount(classes.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    weights = np.zeros(IGNORE_INDEX + 1, np.float32)
    here = np.flatnonzero(pixels)
    if len(here):
        total = pixels.sum()
        weight = np.minimum(total / (len(here) * pixels[here]), MOST_BALANCE)
        weights[here] = weight * total / (weight * pixels[here]).sum()
    return weights
