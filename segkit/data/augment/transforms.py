"""Cropping and augmentation: with elastic.py the one place that knows albumentations."""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network when imported

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import did_you_mean
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.cropping import cut_out, foreground_window
from segkit.data.augment.elastic import ElasticGrid

cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would fight with them

TURNS = {"D4", "RandomRotate90", "SquareSymmetry", "Transpose"}
"""Transforms that may exchange height and width."""
_PLACE = 1
"""Which of an item's seeds places the crop; those after it are the transforms'."""


class TrainTransform:
    """Random crop and augmentation of an image and its labels.

    The crop comes first, and what follows sees nothing else: neither an image nor its labels are
    read, converted or warped as a whole.

    What padding and warping bring in from outside the crop is IGNORE_INDEX in the labels.

    Args:
        crop: Height and width of the result; smaller images are padded.
        augment: Transforms of albumentations and ElasticGrid, each a mapping of ``name`` and
            options.
        context: Mirrored pixels at each border, for unpadded networks: the image of the result is
            larger by them, its labels are not.
        foreground_share: Share of the crops that are placed so that they hold a pixel of the
            foreground, of a class (or in a map of ids an object) that is drawn evenly among those
            of the image. Augmentation may move it out again.
        background: The label that is no foreground, None where each label is.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        augment: list[dict[str, Any]],
        context: int = 0,
        foreground_share: float = 0.0,
        background: int | None = 0,
    ) -> None:
        self.context, self._augment = context, augment
        self.foreground_share, self.background = foreground_share, background
        self._size = size = crop[0] + 2 * context, crop[1] + 2 * context
        # a crop that is turned must be as wide as it is high, to lose nothing
        turns = any(options["name"] in TURNS for options in augment)
        self._cut = (max(size), max(size)) if turns else size
        # what is left of the cut in every orientation
        kept = (min(crop), min(crop)) if turns else crop
        self._margin = (self._cut[0] - kept[0]) // 2, (self._cut[1] - kept[1]) // 2
        self._steps = [_build(options) for options in augment]
        self._pad, self._fit = _padding(self._cut), [_padding(size), A.CenterCrop(*size)]

    @property
    def names(self) -> list[str]:
        """The names of the transforms."""
        return [str(options["name"]) for options in self._augment]

    def __call__(
        self, image: NDArray[Any], labels: NDArray[Any], seed: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(H, W, C) and (H, W) or (H, W, N) to the crop's size, of the same types.

        The same seed gives the same result, in whichever process.
        """
        return self.augment(*self.cut(image, labels, seed), seed)

    def cut(
        self,
        image: NDArray[Any],
        labels: NDArray[Any],
        seed: int,
        counts: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The part of an image and its labels that :meth:`augment` needs; no other is read.

        Args:
            image: (H, W, C) of any type.
            labels: (H, W), or (H, W, N) of overlapping classes.
            seed: The seed of the item.
            counts: The counts of the labels, see
                :func:`segkit.data.augment.cropping.count_by_row`. Where they are missing, crops on
                the foreground read all labels.
        """
        c = self.context
        window = None
        if self.foreground_share:
            rng = np.random.default_rng((seed, 1))
            if rng.random() < self.foreground_share:
                window = foreground_window(
                    labels, self._cut, self._margin, self.background, rng, c, counts
                )
        if window is None:
            place = random.Random(_seeds(seed, _PLACE + 1)[_PLACE])
            rows, columns = (
                _anywhere(length + 2 * c, side, place)
                for length, side in zip(image.shape[:2], self._cut, strict=True)
            )
            window = rows, columns
        return cut_out(image, window, c), cut_out(labels, window, c, IGNORE_INDEX)

    def augment(
        self,
        image: NDArray[Any],
        labels: NDArray[Any],
        seed: int,
        after_each: Callable[[], None] = lambda: None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What :meth:`cut` gave, padded and augmented, to the crop's size.

        Args:
            image: (H, W, C), uint8 or float32.
            labels: (H, W), or (H, W, N) of overlapping classes.
            seed: The seed of the item.
            after_each: Called after each transform, whether or not it was drawn, to take the time.
        """
        data = {"image": image}
        if labels.ndim == 2:
            data["mask"] = labels
        else:  # one by one: several at once would be filled in their first layer only
            data["masks"] = np.ascontiguousarray(labels.transpose(2, 0, 1))
        with _without_warnings():
            if image.shape[:2] != self._cut:
                data = self._pad(**data)
            seeds = _seeds(seed, _PLACE + 1 + len(self._steps))[_PLACE + 1 :]
            for step, own in zip(self._steps, seeds, strict=True):
                data = _applied(step, own, data)
                after_each()
            if data["image"].shape[:2] != self._size:  # a transform may have changed it
                for step in self._fit:
                    data = step(**data)
        image = data["image"]
        labels = data["mask"] if labels.ndim == 2 else np.stack(list(data["masks"]), axis=2)
        c = self.context
        return image, labels[c : labels.shape[0] - c, c : labels.shape[1] - c]

    def unfit(self, channels: int, dtype: Any) -> list[str]:
        """Which transforms cannot be applied to images of that many channels and that type."""
        rng = np.random.default_rng(0)
        image = (255 * rng.random((*self._cut, channels), np.float32)).astype(np.uint8)
        image = image if dtype == np.uint8 else (image / 255).astype(dtype)
        labels = np.zeros(self._cut, np.uint8)
        problems = []
        for number, options in enumerate(self._augment):
            step = _build({**options, "p": 1.0})
            step.set_random_seed(0)
            try:
                with _without_warnings():
                    result = step(image=image, mask=labels)["image"]
            except Exception as error:  # whatever the transform raises
                reason = str(error) or type(error).__name__
            else:
                if (result.dtype, result.shape[2:]) == (image.dtype, image.shape[2:]):
                    continue
                reason = f"it turns them into {result.dtype} of the shape {result.shape}"
            problems.append(
                f"augment.transforms[{number}]: {options['name']} cannot be applied to images of"
                f" {channels} channels, {image.dtype}: {reason.rstrip('.')}. Leave it out"
            )
        return problems


def check_augment(augment: list[dict[str, Any]]) -> list[str]:
    """Problems with a list of transforms: unknown names and options, values that are refused."""
    problems = []
    for number, options in enumerate(augment):
        where = f"augment.transforms[{number}]"
        name = str(options.get("name", ""))
        transform = _transforms().get(name)
        if transform is None:
            problems.append(
                f"{where}: '{name}' is no transform of albumentations."
                f"{did_you_mean(name, _transforms())}"
            )
            continue
        known = list(inspect.signature(transform).parameters)
        unknown = [key for key in options if key not in known and key != "name"]
        problems += [
            f"{where}: {name} has no option '{key}'.{did_you_mean(key, known)}"
            f" Known: {', '.join(known)}."
            for key in unknown
        ]
        if not unknown:
            try:
                _build(options)
            except Exception as error:  # pydantic's, and the transforms' own
                problems.append(f"{where}: {name} refuses its options. {error}")
    return problems


@lru_cache(maxsize=1)
def _transforms() -> dict[str, type[Any]]:
    bases = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform)
    known = {
        name: member
        for name, member in vars(A).items()
        if inspect.isclass(member)
        and issubclass(member, A.BasicTransform)
        and member not in bases
        and not issubclass(member, A.Transform3D)
    }
    return {**known, "ElasticGrid": ElasticGrid}


def _build(options: dict[str, Any]) -> A.BasicTransform:
    options = dict(options)
    transform = _transforms()[options.pop("name")]
    known = inspect.signature(transform).parameters
    # None: it drops pixels of the image and leaves the labels
    if "fill_mask" in known and known["fill_mask"].default is not None:
        options.setdefault("fill_mask", IGNORE_INDEX)
    if "border_mode" in known:
        options.setdefault("border_mode", cv2.BORDER_CONSTANT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # albumentations only warns of what it does not know
        return transform(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def _applied(
    step: A.BasicTransform, seed: int, data: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """A step with draws of its own, if it is drawn itself.

    Compose would give all steps the same seed, so that their draws are the same and those with one
    probability happen together or not at all.
    """
    draws = random.Random(seed)
    # asked here, as most of a step that is not applied is the making of its generators
    if step.p < 1 and draws.random() >= step.p:
        return data
    step.set_random_state(np.random.default_rng(seed), draws)
    return step(force_apply=True, **data)


def _anywhere(length: int, side: int, draws: random.Random) -> slice:
    """A random stretch of at most ``side`` inside ``length``."""
    share = draws.random()
    start = int((length - side + 1) * share) if length > side else 0
    return slice(start, min(length, start + side))


def _padding(size: tuple[int, int]) -> A.BasicTransform:
    """Padding to at least that size, on both sides alike."""
    return A.PadIfNeeded(*size, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE_INDEX)


def _seeds(seed: int, count: int) -> list[int]:
    return [int(own) for own in np.random.SeedSequence(seed).generate_state(count)]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Colour transforms warn at every grey image that they leave as it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="albu")
        yield
