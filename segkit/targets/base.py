"""Targets: the labels that a model learns, drawn from object ids.

They are drawn after augmentation, from the ids of the crop, so that gaps and borders have the same
width however the image was scaled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, NamedTuple, final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, MODES, Mode
from segkit.core.registry import Registrable
from segkit.targets.distance import make_disc, measure_depths, separate_objects
from segkit.targets.objects import number_regions
from segkit.targets.weight_map import WeightMap


class Drawing(NamedTuple):
    """What a target draws from a map of objects; IGNORE_INDEX is added afterwards.

    Attributes:
        labels: (H, W) or (H, W, N), uint8.
        objects: (H, W) ids from which the weight map measures distances.
        outside: (H, W) pixels that get the second term of the weight map; None: the background.
    """

    labels: NDArray[np.uint8]
    objects: NDArray[np.uint16]
    outside: NDArray[np.bool_] | None = None


class Target(Registrable, ABC, family="target"):
    """Base of every target: ``target.encode(mask)`` returns the labels to learn and their weights.

    A target holds its options and nothing else: it is sent to the workers that load data.

    Args:
        weight_map: Weights of the pixels in the loss, see :class:`WeightMap`.

    Attributes:
        from_ids: Whether :meth:`encode` takes object ids (uint16) instead of labels (uint8).
        for_queries: Whether it is learned by the head ``queries``, whose loss takes the ids too.
        modes: The modes of the heads that can learn it.
        num_classes: Number of classes; None: those of the data.
        class_names: Their names; None: those of the data.
        decoders: What finds the objects in its predictions, the best one first.
        gap: Pixels removed between touching objects, which a decoder should add again.
    """

    from_ids: bool = True
    for_queries: ClassVar[bool] = False
    modes: tuple[Mode, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    decoders: ClassVar[tuple[str, ...]]
    gap: int = 0

    def __init__(self, weight_map: WeightMap | None = None) -> None:
        self.weight_map = weight_map

    @final
    def decoders_for(self, mode: Mode) -> tuple[str, ...]:
        """The decoders that fit a head of that mode."""
        layered = mode == "multilabel"  # not one class per pixel, but maps to flood from
        return tuple(name for name in self.decoders if not layered or name == "distance")

    @final
    def encode(self, mask: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """The labels of an image and the weights of its pixels.

        Pixels of IGNORE_INDEX keep it, in every layer. They are treated as outside the image: there
        is no gap or border along them.

        Args:
            mask: (H, W) uint16 ids, see :func:`segkit.targets.objects.number_objects`; for the
                target ``labels`` uint8 classes, (H, W) or (H, W, N).

        Returns:
            Labels (H, W) or (H, W, N), and weights (H, W) or None without a weight map.
        """
        kind, dims = (np.uint16, (2,)) if self.from_ids else (np.uint8, (2, 3))
        if mask.dtype != kind or mask.ndim not in dims:
            wanted = "ids (H, W)" if self.from_ids else "labels, (H, W) or (H, W, N),"
            raise SegkitError(
                f"target '{self.name}' is drawn from {wanted} as {np.dtype(kind)}, not from"
                f" {mask.dtype} of the shape {mask.shape}."
            )
        unknown = mask == IGNORE_INDEX
        labels, objects, outside = self.draw(np.where(unknown, 0, mask), unknown)
        labels[unknown] = IGNORE_INDEX
        if self.weight_map is None:
            return labels, None
        classes = labels if labels.ndim == 2 else labels[..., 0]
        return labels, self.weight_map(classes, objects, outside)

    @abstractmethod
    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """Draw the labels.

        Args:
            objects: The mask of :meth:`encode`, 0 where unlabelled.
            unknown: Which pixels are unlabelled. What is drawn there does not matter.
        """


class Labels(Target, name="labels"):
    """The classes of the masks, unchanged.

    Args:
        weight_map: Weights of the pixels in the loss, such as {w0: 10, sigma: 5, balance: true} of
            the U-Net paper. Each connected region of a class but 0 is an object here, as the cells
            between the membranes of ISBI 2012; it needs one class per pixel.
    """

    from_ids = False
    decoders = ("components", "watershed")

    def __init__(self, weight_map: WeightMap | None = None) -> None:
        super().__init__(weight_map)
        self.modes = MODES if weight_map is None else ("binary", "multiclass")

    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """See :meth:`Target.draw`."""
        if self.weight_map is None:
            return Drawing(objects, objects)
        if objects.ndim == 3:
            raise SegkitError(
                "target 'labels' has a weight map, which needs one class per pixel, but the"
                f" masks have {objects.shape[2]} layers: give target.weight_map=null."
            )
        return Drawing(objects, number_regions(objects))


class Foreground(Target, name="foreground"):
    """Objects against the background, with a gap between those that touch.

    Labels: 0 background, 1 object. See :func:`segkit.targets.distance.separate_objects`. The weight
    map is measured after the gap is drawn, so that its second term is highest in the gap.

    Args:
        gap: Pixels between any two objects; 0: no gap.
        weight_map: Weights of the pixels in the loss, such as {w0: 10, sigma: 5, balance: true} of
            the U-Net paper: highest between objects that are close to each other.
    """

    modes = ("binary", "multiclass")
    num_classes = 2
    decoders = ("components", "watershed")

    def __init__(
        self, gap: Annotated[int, Field(ge=0)] = 2, weight_map: WeightMap | None = None
    ) -> None:
        super().__init__(weight_map)
        self.gap = gap

    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """See :meth:`Target.draw`."""
        kept = separate_objects(objects, self.gap)
        return Drawing((kept > 0).astype(np.uint8), kept)


class Objects(Target, name="objects"):
    """Each object by a query of its own, without gaps or borders: for ``head=queries``.

    Labels: 0 background, 1 object; with ``regions`` those of the masks. The loss gets the ids too.

    Args:
        regions: Whether masks hold classes, of which each connected region of a class but 0 is an
            object of that class; else they hold ids of objects of one class.
        weight_map: Weights of the pixels, which the loss of queries does not take.
    """

    for_queries = True
    modes = ("multiclass",)
    decoders = ("queries",)

    def __init__(self, regions: bool = False, weight_map: WeightMap | None = None) -> None:
        super().__init__(weight_map)
        self.from_ids, self.num_classes = not regions, None if regions else 2

    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """See :meth:`Target.draw`."""
        if self.from_ids:
            return Drawing((objects > 0).astype(np.uint8), objects)
        return Drawing(objects, number_regions(objects))


class BorderCore(Target, name="border_core"):
    """Three classes: background, cores of objects, and borders around the cores.

    Labels: 0 background, 1 core, 2 border. A pixel of an object is border if it is at most
    ``border`` pixels from a pixel of another object or of the background, from centre to centre. So
    cores of two objects never touch, except at a corner between unlabelled pixels if ``border`` is
    1.

    An object too thin for a core keeps its innermost pixels as its core: those farthest from its
    contour. If such a core touches another one, the pixels that
    :func:`segkit.targets.distance.separate_objects` removes for a gap of one become border.

    The second term of the weight map also applies to borders, where d1 is 0: it separates touching
    objects there.

    Args:
        border: Width of the border inside the object, in pixels.
        weight_map: Weights of the pixels in the loss, such as {w0: 10, sigma: 5, balance: true} of
            the U-Net paper: highest between objects that are close to each other.
    """

    modes = ("multiclass",)
    num_classes = 3
    class_names = ("background", "core", "border")
    decoders = ("border_core",)

    def __init__(
        self, border: Annotated[int, Field(ge=1)] = 2, weight_map: WeightMap | None = None
    ) -> None:
        super().__init__(weight_map)
        self.border = border

    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """See :meth:`Target.draw`."""
        near = make_disc(self.border**2)
        # another object is near where the largest or the smallest id around differs; unlabelled
        # pixels become the smallest id for the one, the largest for the other
        above = cv2.dilate(objects, near) > objects
        below = cv2.erode(np.where(unknown, np.uint16(2**16 - 1), objects), near) < objects
        core = (objects > 0) & ~above & ~below
        thin = np.where(np.isin(objects, np.unique(objects[core])), 0, objects)
        if thin.any():
            for window, inside, d in measure_depths(thin, unknown):
                core[window] |= inside & (d == d[inside].max())
            core = separate_objects(np.where(core, objects, 0), 1) > 0
        labels = np.where(objects > 0, np.uint8(2), np.uint8(0))
        labels[core] = 1
        return Drawing(labels, objects, ~core)


class Distance(Target, name="distance"):
    """The distance of each pixel to the contour of its object, normalised, in levels.

    With e(x) the distance of pixel x of an object to the nearest pixel outside it (1 at the
    contour), d(x) = e(x) / max e is in (0, 1] for objects of any size. Layer k = 0 ... N - 1 of
    N is 1 where d > k / N: layer 0 is the objects themselves, and the mean of the layers is d,
    rounded up to multiples of 1 / N. So a multilabel head learns a distance by ordinal regression,
    with any loss for overlapping classes.

    An object without a contour in the crop has d = 1. The second term of the weight map also
    applies to the outer level (d <= 1 / N), where d1 is 0; classes are balanced by layer 0.

    Args:
        levels: Number N of layers; layer k says whether the distance exceeds k / N.
        weight_map: Weights of the pixels in the loss, such as {w0: 10, sigma: 5, balance: true} of
            the U-Net paper: highest between objects that are close to each other.
    """

    modes = ("multilabel",)
    decoders = ("distance",)

    def __init__(
        self, levels: Annotated[int, Field(ge=2, le=255)] = 5, weight_map: WeightMap | None = None
    ) -> None:
        super().__init__(weight_map)
        self.levels = self.num_classes = levels
        above = (f"distance > {k / levels:.3g}" for k in range(1, levels))
        self.class_names = ("object", *above)

    def draw(self, objects: NDArray[Any], unknown: NDArray[np.bool_]) -> Drawing:
        """See :meth:`Target.draw`."""
        distance = np.zeros(objects.shape, np.float32)
        for window, inside, d in measure_depths(objects, unknown):
            largest = d[inside].max()
            distance[window][inside] = d[inside] / largest if np.isfinite(largest) else 1
        steps = (np.arange(self.levels) / self.levels).astype(np.float32)
        labels = (distance[..., None] > steps).view(np.uint8)  # (H, W, N)
        return Drawing(labels, objects, labels[..., 1] == 0)
