"""The trained model as a function from an image to labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from segkit.config.settings import OVERLAP, TTA, WAIST
from segkit.core.errors import SegkitError
from segkit.inference.given_image import Image, load_image, name_image
from segkit.inference.objects.instances import Decoder, decode
from segkit.inference.runtimes.ensemble import common_windows, require_alike
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.blending import Canvas, Readable, predict_canvases
from segkit.inference.tiles.tiling import plan_grid
from segkit.targets.base import Target

Choice = Literal[Decoder, "training"]
ROWS = 128
"""Of a large image that are decided and written at once: labels begin as 64-bit integers."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about an image.

    Attributes:
        labels: The class of each pixel, (H, W); of a multilabel model (C, H, W) of 0 and 1. uint8.
        probabilities: (C, H, W) float32, with one channel for a binary model.
        instances: Ids of objects (H, W), int32, where they were asked for.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    instances: NDArray[np.int32] | None = None


class Predictor:
    """A trained model: an image in, labels out, whatever its size.

    Args:
        networks: The network, or several whose probabilities are averaged; :func:`segkit.load`
            reads them from files.
        tta: Test-time augmentation: the mean over mirrored tiles ("flips"), or over all eight
            rotations and reflections ("d4").
        instances: How objects are told apart, see :func:`decode`:
            "components", "watershed", "border_core", "distance", None, not at all, or "training",
            as in the training.
        min_size: Pixels below which an object is dropped; None: as in the training.
        waist: For "watershed" and "distance": two parts are two objects where they hang together by
            less than this share of the smaller one's width.
        fill_holes: Whether background that one object encloses becomes part of it.
        overlap: The least share of a tile that it has in common with the next.
        context: Pixels around each tile that the network sees and does not decide, mirrored at the
            border of the image; None: what the network needs, which is none where it is padded.
        threshold: Probability above which a pixel belongs to a class; None: the model's own.

    Example:
        >>> predictor = load("best.ckpt")  # doctest: +SKIP
        >>> predictor("image.png").labels.shape  # doctest: +SKIP
        (512, 512)
    """

    def __init__(
        self,
        networks: Network | Sequence[Network],
        *,
        tta: TTA = "none",
        instances: Choice | None = "training",
        min_size: int | None = None,
        waist: float = WAIST,
        fill_holes: bool = False,
        overlap: float = OVERLAP,
        context: int | None = None,
        threshold: float | None = None,
    ) -> None:
        for option, value, allowed in (
            ("tta", tta, get_args(TTA)),
            ("instances", instances, ("training", None, *get_args(Decoder))),
        ):
            if value not in allowed:
                known = ", ".join(str(a) for a in allowed)
                raise SegkitError(f"{option} is '{value}', which is not one of {known}.")
        if not (isinstance(overlap, int | float) and 0 <= overlap < 1):
            raise SegkitError(f"overlap is {overlap!r}: give 0 or more, below 1.")
        if not 0 < waist <= 1:
            raise SegkitError(f"waist is {waist!r}: give a share above 0, up to 1.")
        self.networks = [networks] if isinstance(networks, Network) else list(networks)
        self.card = card = self.networks[0].card
        require_alike(self.networks)
        if threshold is not None and card.mode == "multiclass":
            raise SegkitError("threshold: of several classes the most probable one is taken.")
        if threshold is None and len({network.card.threshold for network in self.networks}) > 1:
            raise SegkitError(
                "checkpoint: the models of the list have thresholds of their own, which differ:"
                " give threshold=VALUE for all of them."
            )
        if min_size is not None and not (isinstance(min_size, int) and min_size >= 0):
            raise SegkitError(f"min_size is {min_size!r}: give a number of pixels, 0 or more.")
        if threshold is not None and not (isinstance(threshold, int | float) and 0 < threshold < 1):
            raise SegkitError(f"threshold is {threshold!r}: give a probability between 0 and 1.")
        if instances == "training":
            instances = card.config.get("instances")
        options = {k: v for k, v in card.target.items() if k != "name"}
        self.target = Target.build(card.target["name"], **options)
        fit = self.target.decoders_for(card.mode)
        if instances is not None and instances not in fit:
            raise SegkitError(
                f"instances={instances} cannot be used on a model of target={self.target.name} with"
                f" head={card.head['name']}: use {' or '.join(fit) or 'none'}, or train with"
                " another target."
            )
        self.windows = common_windows(self.networks, context)
        if tta == "d4" and self.windows.fixed and len(set(self.windows.fixed)) > 1:
            raise SegkitError("tta=d4 turns tiles, and this network takes no turned ones: flips.")
        self.tta, self.instances, self.threshold = tta, instances, threshold
        self.min_size = card.config.get("min_size", 0) if min_size is None else min_size
        self.waist, self.fill_holes = waist, fill_holes
        self.overlap = overlap

    @property
    def mode(self) -> str:
        """What the channels of the probabilities mean: binary, multiclass or multilabel."""
        return self.card.mode

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.networks[0].device

    @overload
    def __call__(self, image: Image, page: int | None = None) -> Prediction: ...

    @overload
    def __call__(self, image: list[Image], page: int | None = None) -> list[Prediction]: ...

    def __call__(
        self, image: Image | list[Image], page: int | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one image, or several, whose tiles then share batches.

        Args:
            image: A file, or an array (H, W) or (H, W, C) of 8 or 16 bit or float; or a list of
                such, of any sizes.
            page: Page of a multi-page file.

        Raises:
            SegkitError: The image cannot be read, or its channels or its type do not fit the
                training.
        """
        given = image if isinstance(image, list) else [image]
        found = list(_raising(self._predictions((one, page) for one in given)))
        return found if isinstance(image, list) else found[0]

    def stream(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predict images one after the other, in their order; tiles are pooled across them.

        The next image is asked for while earlier ones wait for others to fill a batch.

        Raises:
            SegkitError: At the first image that cannot be read or does not fit.
        """
        return _raising(self.try_stream(images))

    def try_stream(
        self, images: Iterable[Image]
    ) -> Generator[Prediction | SegkitError, None, None]:
        """Like :meth:`stream`, with the error in the place of an image that cannot be predicted."""
        return self._predictions((image, None) for image in images)

    def _predictions(
        self, images: Iterable[tuple[Image, int | None]]
    ) -> Generator[Prediction | SegkitError, None, None]:
        found: list[_Whole | SegkitError] = []

        def canvases() -> Iterator[Canvas]:
            for image, page in images:
                try:
                    whole = _Whole(self, load_image(image, page), image)
                except (SegkitError, MemoryError) as error:
                    found.append(name_image(error, image))
                    continue
                found.append(whole)
                yield self._canvas(whole, whole.write)

        def results() -> Iterator[Prediction | SegkitError]:
            while found and (isinstance(found[0], SegkitError) or found[0].is_complete):
                first = found.pop(0)
                yield first if isinstance(first, SegkitError) else first.prediction()

        for canvas in predict_canvases(canvases(), self.networks, self.tta):
            assert isinstance(canvas.image, _Whole)
            canvas.image.is_complete, canvas.image.error = True, canvas.error
            yield from results()
        yield from results()

    def predict_windows(
        self,
        image: Readable,
        write: Callable[[int, int, NDArray[np.uint8]], None],
        write_probabilities: Callable[[int, int, NDArray[np.float32]], None] | None = None,
    ) -> None:
        """Predict an image that is larger than memory. Objects are not told apart.

        Args:
            image: Read by windows; see :func:`segkit.images.windows.open_windows`.
            write: Takes (top, left, labels), a block (h, w), of a multilabel model (N, h, w).
                Together the blocks cover the image once.
            write_probabilities: Takes (top, left, block) of shape (C, h, w).

        Raises:
            SegkitError: The image cannot be read, or does not fit the training.
        """

        def take(top: int, left: int, block: Any) -> None:
            for at in range(0, block.shape[1], ROWS):
                rows = block[:, at : at + ROWS]
                write(top + at, left, self._labels(rows))
                if write_probabilities is not None:
                    write_probabilities(top + at, left, self.networks[0].numpy(rows))

        for canvas in list(predict_canvases([self._canvas(image, take)], self.networks, self.tta)):
            if canvas.error is not None:
                raise name_image(canvas.error)

    def objects(
        self, probabilities: NDArray[np.float32], labels: NDArray[Any]
    ) -> NDArray[np.int32]:
        """Ids of the objects (H, W) in a prediction (C, H, W) and the labels decided from it."""
        assert self.instances is not None
        return decode(
            self.instances,
            probabilities,
            labels,
            self.card.mode,
            gap=self.target.gap,
            min_size=self.min_size,
            waist=self.waist,
            fill_holes=self.fill_holes,
        )

    def _labels(self, probabilities: Any) -> NDArray[np.uint8]:
        """(C, h, w) as the networks have it, to (h, w) or (N, h, w)."""
        network = self.networks[0]
        decided = network.decide(probabilities[None], self.threshold)[0]
        return network.numpy(decided).astype(np.uint8)

    def _canvas(self, image: Readable, write: Callable[[int, int, Any], None]) -> Canvas:
        height, width, _ = image.shape
        grid = plan_grid(height, width, self.windows, self.overlap)
        return Canvas(image, grid, write, self.networks[0])


class _Whole:
    """An image in memory, and its prediction as it grows.

    It does not know its canvas: in a circle both would stay until the garbage collector comes.
    """

    def __init__(self, predictor: Predictor, image: NDArray[Any], given: Image) -> None:
        self.is_complete = False
        self.error: SegkitError | MemoryError | None = None
        self._predictor, self._image, self._given = predictor, image, given
        height, width, _ = self.shape = image.shape
        channels = predictor.networks[0].num_logits
        self.probabilities = np.empty((channels, height, width), np.float32)
        layers = (predictor.card.num_classes,) if predictor.mode == "multilabel" else ()
        self.labels = np.empty((*layers, height, width), np.uint8)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return self._image[top : top + height, left : left + width]

    def prediction(self) -> Prediction | SegkitError:
        if self.error is not None:
            return name_image(self.error, self._given)
        found = None
        if self._predictor.instances is not None:
            try:
                found = self._predictor.objects(self.probabilities, self.labels)
            except MemoryError as error:
                return name_image(error, self._given)
        return Prediction(self.labels, self.probabilities, found)

    def write(self, top: int, left: int, block: Any) -> None:
        height, width = block.shape[1:]
        inside = (..., slice(top, top + height), slice(left, left + width))
        self.probabilities[inside] = self._predictor.networks[0].numpy(block)
        self.labels[inside] = self._predictor._labels(block)


def _raising(results: Iterable[Prediction | SegkitError]) -> Iterator[Prediction]:
    for result in results:
        if isinstance(result, SegkitError):
            raise result
        yield result
