"""The trained model as a function from an image to labels."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import find_empty
from segkit.config.schema import describe_error
from segkit.config.settings import ModelSettings, PredictionOptions
from segkit.core.ensembles import list_checkpoints
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import Decoder
from segkit.core.postprocessing import Postprocessing
from segkit.images.in_memory import InMemory, read_memory
from segkit.images.reading import read_image
from segkit.inference.averaging import (
    find_common_windows,
    require_same_classes,
    require_same_tuning,
)
from segkit.inference.bit_depth import DepthWatch
from segkit.inference.objects.instances import BY_WAIST, decode
from segkit.inference.objects.merging import ObjectMerger
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.blending import Canvas, Readable, predict_canvases
from segkit.inference.tiles.tiling import Windows, find_overlap, plan_grid
from segkit.targets.base import Target

Image = Path | str | InMemory
"""A file; a numpy array (H, W) or (H, W, C), a tensor (H, W) or (C, H, W), or a PIL.Image."""
ROWS = 128
"""Rows of a large image that are decided and written at once: labels begin as 64-bit integers."""
DOWNLOADS = 4
"""Arrays on their way from a device for one image: their memory is locked."""


class OtherTilesWarning(UserWarning):
    """Tiles are not as they were asked for."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of an image.

    Attributes:
        labels: The class of each pixel, (H, W), 255 where the image has no data; of a multilabel
            model (C, H, W) of 0 and 1. uint8.
        maps: The probabilities (C, H, W), float32, with one channel for a binary model; None unless
            they were asked for.
        instances: Ids of objects (H, W), int32, if the model tells objects apart.
    """

    labels: NDArray[np.uint8]
    maps: NDArray[np.float32] | None = None
    instances: NDArray[np.int32] | None = None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probabilities (C, H, W), float32, with one channel for a binary model."""
        if self.maps is None:
            raise SegkitError(
                "this prediction holds labels only, as probabilities take several times the memory"
                " and time: ask for them by predictor(image, probabilities=True)."
            )
        return self.maps


class Predictor:
    """A trained model: takes an image of any size, returns its labels.

    Args:
        networks: The network, or several whose probabilities are averaged; :func:`segkit.load`
            reads them from files.
        options: Options of :class:`segkit.config.settings.PredictionOptions`, such as
            ``tta="flips"``; ``tile`` and ``batch_size`` belong to the networks.

    Example:
        >>> predictor = load("best.ckpt")  # doctest: +SKIP
        >>> predictor("image.png").labels.shape  # doctest: +SKIP
        (512, 512)
    """

    def __init__(self, networks: Network | Sequence[Network], **options: Any) -> None:
        self._options = given = parse_options(options)
        self.networks = [networks] if isinstance(networks, Network) else list(networks)
        self.card = self.networks[0].card
        require_same_classes([network.card for network in self.networks])
        if any(network.xp is not self.networks[0].xp for network in self.networks):
            raise SegkitError(
                "checkpoint: exported files and checkpoints cannot be averaged with each other."
            )
        self.instances: Decoder | None = (
            self.card.config.get("instances") if given.instances == "training" else given.instances
        )
        chosen = self.card.postprocessing or Postprocessing()
        self.threshold = given.threshold or chosen.thresholds or None
        own: int = self.card.config.get("min_size", 0)
        sizes = given.min_size, chosen.min_size, own
        self.min_size = next(size for size in sizes if size is not None)
        self.fill_holes = chosen.fill_holes if given.fill_holes is None else given.fill_holes
        self.waist = given.waist
        self.watch = DepthWatch(self.card, partial(warnings.warn, stacklevel=4))
        self._check_options()

    def take_apart(self) -> list[Predictor]:
        """A predictor of the same options for each of the networks."""
        return [Predictor(network, **self._options.model_dump()) for network in self.networks]

    def _check_options(self) -> None:
        """Raise a SegkitError if the networks cannot be used with an option."""
        given, card = self._options, self.card
        if given.threshold is not None and card.mode == "multiclass":
            raise SegkitError(
                f"threshold={given.threshold}: this model takes the most probable of several"
                " classes. Leave threshold out."
            )
        if given.threshold is None and len({each.card.threshold for each in self.networks}) > 1:
            raise SegkitError(
                "checkpoint: the models of the list have thresholds of their own, which differ:"
                " give threshold=VALUE for all of them."
            )
        require_same_tuning([each.card for each in self.networks])
        if self.instances is not None:
            fits = self.target.decoders_for(card.mode)
            if self.instances not in fits:
                raise SegkitError(
                    f"instances={self.instances} cannot be used on a model of"
                    f" target={self.target.name} with head={card.head['name']}: use"
                    f" {' or '.join(fits) or 'none'}, or train with another target."
                )
        if self.instances == "queries" and (given.tta == "d4" or len(self.networks) > 1):
            several = f"tta={given.tta}" if given.tta == "d4" else "a list of checkpoints"
            raise SegkitError(
                f"instances=queries with {several}: queries number their objects each time anew, so"
                " they cannot be averaged. Use one checkpoint with tta=none or tta=flips, or"
                " instances=null."
            )
        _require_effect(self, given)
        if given == PredictionOptions() and len(self.networks) == 1:
            return  # every network can be used, and its tiles need not be planned yet
        fixed = self.windows.fixed
        if fixed is not None and given.tile is not None and set(fixed) != {given.tile}:
            raise SegkitError(
                f"tile={given.tile} cannot be used: this network takes only tiles of {fixed[0]} x"
                f" {fixed[1]} pixels. Leave tile out."
            )
        if fixed is not None and fixed[0] != fixed[1] and given.tta == "d4":
            raise SegkitError(
                f"tta=d4 rotates tiles, and this network takes only {fixed[0]} x {fixed[1]}"
                " pixels. Use tta=flips."
            )
        self._report_tiles()

    def _report_tiles(self) -> None:
        """Warn where the networks take no tiles as they are asked for."""
        given, windows = self._options, self.windows
        if given.tile is not None and windows.fixed is None and windows.largest > given.tile:
            warnings.warn(
                f"tile={given.tile}: tiles have {windows.largest} pixels, the fewest that this"
                f" network takes{' more than once' * (windows.largest > windows.smallest)}.",
                OtherTilesWarning,
                stacklevel=4,
            )
        found = find_overlap(windows, given.overlap)
        if found < given.overlap:
            warnings.warn(
                f"overlap={given.overlap}: tiles of {windows.fixed or windows.largest} pixels"
                f" overlap by {found:.3g} of their side, as they begin at multiples of"
                f" {windows.step} pixels. Give a larger tile for more.",
                OtherTilesWarning,
                stacklevel=4,
            )

    @cached_property
    def target(self) -> Target:
        """The target that the model has learned."""
        return self.card.build_target()

    @cached_property
    def windows(self) -> Windows:
        """The tiles that images are cut into; planned for the memory that is free by then."""
        return _find_windows(self.networks, self._options.context)

    @property
    def mode(self) -> str:
        """Meaning of the channels of the probabilities: binary, multiclass or multilabel."""
        return self.card.mode

    @overload
    def __call__(
        self, image: Image, page: int | None = None, *, probabilities: bool = False
    ) -> Prediction: ...

    @overload
    def __call__(
        self, image: list[Image], page: int | None = None, *, probabilities: bool = False
    ) -> list[Prediction]: ...

    def __call__(
        self, image: Image | list[Image], page: int | None = None, *, probabilities: bool = False
    ) -> Prediction | list[Prediction]:
        """Predict one image, or several of any sizes, whose tiles then share batches.

        Args:
            image: A path; a numpy array (H, W) or (H, W, C); a torch tensor (H, W) or (C, H, W) on
                any device; or a PIL.Image, which is read as its file would be. Or a list of them.
                Whole numbers of 8 or 16 bits and floats of 0 to 1 are converted to the intensities
                of the training; booleans are the numbers 0 and 1, like those of uint8.
            page: Page of a multi-page file, from 0.
            probabilities: Whether to return the probabilities too.

        Raises:
            SegkitError: An image cannot be read, its axes have more than one meaning, or its
                channels or its type do not fit the training.
        """
        given = image if isinstance(image, list) else [image]
        results = self.try_stream(given, page, probabilities=probabilities)
        found = list(_raise_errors(results))
        return found if isinstance(image, list) else found[0]

    def stream(
        self, images: Iterable[Image], *, probabilities: bool = False
    ) -> Iterator[Prediction]:
        """Predict images in their order; tiles are pooled across them.

        The next image is requested while earlier ones wait for others to fill a batch. The first
        image that cannot be predicted raises a SegkitError.
        """
        return _raise_errors(self.try_stream(images, probabilities=probabilities))

    def try_stream(
        self,
        images: Iterable[Image],
        page: int | None = None,
        *,
        probabilities: bool = False,
        pause: Callable[[], object] = lambda: None,
    ) -> Generator[Prediction | SegkitError, None, None]:
        """Like :meth:`stream`, with an error in place of an image that cannot be predicted.

        ``pause`` is called before each batch: meanwhile other threads may use the networks. What it
        raises ends all of it.
        """
        found: deque[_Whole | SegkitError] = deque()

        def open_canvases() -> Iterator[Canvas]:
            for image in images:
                try:
                    pixels = load_image(image, self.card, page)
                    self.watch.check_image(get_name(image), pixels)
                    whole = _Whole(self, pixels, image, probabilities)
                except (SegkitError, MemoryError) as error:
                    found.append(name_image(error, image))
                    continue
                found.append(whole)
                yield self._open_canvas(whole, whole.write, whole.merger)

        tta = self._options.tta
        for canvas in predict_canvases(open_canvases(), self.networks, tta, pause):
            while isinstance(first := found.popleft(), SegkitError):
                yield first
            yield first.finish(canvas.error)
            del first, canvas  # the images are large
        yield from (error for error in found if isinstance(error, SegkitError))

    def predict_windows(
        self,
        image: Readable,
        write: Callable[[int, int, NDArray[np.uint8]], None],
        write_probabilities: Callable[[int, int, NDArray[np.float32]], None] | None = None,
    ) -> None:
        """Predict an image that is larger than memory, without telling objects apart.

        Args:
            image: Read by windows; see :func:`segkit.images.windows.open_windows`.
            write: Takes (top, left, labels), a block (h, w), of a multilabel model (N, h, w).
                Together the blocks cover the image once.
            write_probabilities: Takes (top, left, block) of shape (C, h, w).
        """

        network, downloads = self.networks[0], _Downloads()

        def take(top: int, left: int, block: Any) -> None:
            for at in range(0, block.shape[1], ROWS):
                rows = block[:, at : at + ROWS]
                downloads.add(network.fetch(self._decide(rows), partial(write, top + at, left)))
                if write_probabilities is not None:
                    given = partial(write_probabilities, top + at, left)
                    downloads.add(network.fetch(rows, given))

        canvas = self._open_canvas(image, take)
        list(predict_canvases([canvas], self.networks, self._options.tta))
        downloads.finish()
        if canvas.error is not None:
            raise name_image(canvas.error)

    def find_objects(
        self,
        probabilities: NDArray[np.float32] | None,
        labels: NDArray[Any],
        ids: NDArray[np.int32] | None = None,
    ) -> NDArray[np.int32] | None:
        """Ids of the objects (H, W) in a prediction (C, H, W) and the labels decided from it.

        None if the model is used without telling objects apart. ``ids`` are those that the network
        has told apart itself, for which probabilities are not needed.
        """
        if self.instances is None:
            return None
        return decode(
            self.instances,
            probabilities,
            labels,
            self.card.mode,
            ids=ids,
            gap=self.target.gap,
            min_size=self.min_size,
            waist=self.waist,
            fill_holes=self.fill_holes,
        )

    def _decide(self, probabilities: Any) -> Any:
        """Decide probabilities (C, h, w): (h, w) or (N, h, w), uint8. Arrays of the networks."""
        return self.networks[0].decide(probabilities[None], self.threshold)[0]

    def _open_canvas(
        self,
        image: Readable,
        write: Callable[[int, int, Any], None],
        merger: ObjectMerger | None = None,
    ) -> Canvas:
        height, width, _ = image.shape
        given = self._options
        grid = plan_grid(height, width, self.windows, given.overlap, given.tta != "none")
        return Canvas(image, grid, write, self.networks[0], objects=merger)


class _Downloads:
    """Arrays on their way from a device, which are taken in their order; few at a time."""

    def __init__(self) -> None:
        self._pending: deque[Callable[[], object]] = deque()

    def add(self, finish: Callable[[], object] | None) -> None:
        """Add what :meth:`Network.fetch` returned."""
        if finish is not None:
            self._pending.append(finish)
        self._shorten(DOWNLOADS)

    def finish(self) -> None:
        """Wait for all of them."""
        self._shorten(0)

    def _shorten(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.popleft()()


class _Whole:
    """An image in memory, and its prediction as it grows.

    It has no reference to its canvas: a cycle would keep both until the garbage collector runs.
    """

    def __init__(
        self, predictor: Predictor, image: NDArray[Any], given: Image, has_maps: bool
    ) -> None:
        self._predictor, self._image, self._given = predictor, image, given
        height, width, _ = self.shape = image.shape
        channels = predictor.networks[0].num_logits
        self._is_wanted = has_maps
        self._maps: NDArray[np.float32] | None = None
        self.merger = ObjectMerger(height, width) if predictor.instances == "queries" else None
        if has_maps or (predictor.instances is not None and self.merger is None):
            # objects are found in them
            self._maps = np.empty((channels, height, width), np.float32)
        self._downloads = _Downloads()
        layers = (predictor.card.num_classes,) if predictor.mode == "multilabel" else ()
        self._labels = np.empty((*layers, height, width), np.uint8)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return self._image[top : top + height, left : left + width]

    def write(self, top: int, left: int, block: Any) -> None:
        height, width = block.shape[1:]
        inside = (..., slice(top, top + height), slice(left, left + width))
        network = self._predictor.networks[0]
        labels = self._predictor._decide(block)
        self._downloads.add(network.fetch(labels, partial(_put, self._labels, inside)))
        if self._maps is not None:
            self._downloads.add(network.fetch(block, partial(_put, self._maps, inside)))

    def finish(self, error: SegkitError | MemoryError | None) -> Prediction | SegkitError:
        """The prediction, or the error with the name of the image."""
        if error is not None:
            return name_image(error, self._given)
        try:
            self._downloads.finish()
            found = None
            if self._predictor.instances is not None:
                ids = None if self.merger is None else self.merger.finish()
                found = self._predictor.find_objects(self._maps, self._labels, ids)
            empty = find_empty(self._image)
        except MemoryError as raised:
            return name_image(raised, self._given)
        if empty is not None:
            self._labels[..., empty] = self._predictor.card.unlabelled
            if found is not None:
                found[empty] = 0
        return Prediction(self._labels, self._maps if self._is_wanted else None, found)


def _put(array: NDArray[Any], inside: Any, values: NDArray[Any]) -> None:
    array[inside] = values


def _raise_errors(results: Iterable[Prediction | SegkitError]) -> Iterator[Prediction]:
    for result in results:
        if isinstance(result, SegkitError):
            raise result
        yield result


def parse_options(options: dict[str, Any]) -> PredictionOptions:
    """Check keyword arguments of a prediction; all that are wrong are listed in one error."""
    try:
        return PredictionOptions.model_validate(options)
    except ValidationError as error:
        problems = [describe_error(detail, PredictionOptions) for detail in error.errors()]
        raise all_at_once("the options cannot be used:", problems) from error


def load_image(image: Image, card: ModelCard, page: int | None = None) -> NDArray[Any]:
    """Read an image as (H, W, C), with the values as stored, as a model of that card needs it."""
    if isinstance(image, str | Path):
        return read_image(Path(image), page, card.keeps_alpha, card.is_upright)
    return read_memory(image, card.in_channels, card.keeps_alpha, card.is_upright)


def get_name(image: Image) -> str:
    """How messages call an image."""
    return str(image) if isinstance(image, str | Path) else "the image"


def name_image(error: SegkitError | MemoryError, image: Image | None = None) -> SegkitError:
    """Name the image in an error, if it is a file. A MemoryError gets a message."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = "the image does not fit into memory."
    if isinstance(image, str | Path) and str(image) not in text:
        text = f"{image}: {text}"
    named = SegkitError(text)
    named.__cause__ = error
    return named


def _find_windows(networks: Sequence[Network], context: int | None) -> Windows:
    """Find the windows that all networks take, with the requested context."""
    common = find_common_windows([network.windows for network in networks])
    if context is None:
        return common
    if common.context or common.fixed is not None:
        raise SegkitError(
            f"context={context} cannot be used: this network takes only tiles with"
            f" {common.context} pixels around what they decide. Leave context out."
        )
    # a multiple of the step, so that pooling groups the same pixels
    return replace(common, context=math.ceil(context / common.step) * common.step)


def load(
    path: Path | str | Sequence[Path | str], device: str = "auto", **options: Any
) -> Predictor:
    """Load a predictor. Its files are all that is needed: no training data, nothing to download.

    Args:
        path: A ``best.ckpt`` or ``last.ckpt`` of a run, a file that ``python -m segkit.export``
            wrote, or ``hf://owner/name`` (``@revision``), a model on the Hugging Face hub; or
            several of them, or an ensemble.yaml that names them, whose probabilities are averaged.
        device: Where to compute: "auto" takes a GPU if there is one.
        options: Options of :class:`segkit.config.settings.PredictionOptions`: tta, instances,
            min_size, waist, fill_holes, threshold, tile, overlap, context, batch_size, precision.

    Raises:
        SegkitError: There is no such file, segkit did not write it, or an option cannot be used or
            would have no effect.
    """
    paths = [path] if isinstance(path, str | Path) else path
    if not (isinstance(paths, Sequence) and all(isinstance(each, str | Path) for each in paths)):
        raise SegkitError(f"checkpoint: give a path, or a list of paths, not {path!r}.")
    if not paths:
        raise SegkitError("checkpoint: the list is empty. Give one file or more.")
    parsed = parse_options(options)
    files = list_checkpoints(Path(each) for each in paths)
    networks = [_read_network(file, device, parsed) for file in files]
    return Predictor(networks, **options)


def load_from_settings(settings: ModelSettings) -> Predictor:
    """Load the predictor that the settings of a command describe."""
    options = settings.model_dump(include=set(PredictionOptions.model_fields))
    return load(settings.checkpoint, settings.device, **options)


def _require_effect(predictor: Predictor, options: PredictionOptions) -> None:
    """Raise a SegkitError if an option of objects would have no effect."""
    decoder, defaults = predictor.instances, PredictionOptions()
    for name in ("min_size", "waist", "fill_holes"):
        value = getattr(options, name)
        if not value or value == getattr(defaults, name):
            continue
        if decoder is None:
            fits = predictor.target.decoders_for(predictor.card.mode)
            remedy = f"Give instances={' or instances='.join(fits)}, or leave" if fits else "Leave"
            raise SegkitError(
                f"{name}={value} is about objects, and this model is used without telling them"
                f" apart (instances=null). {remedy} {name} out."
            )
        if name == "waist" and decoder not in BY_WAIST:
            raise SegkitError(
                f"waist={value} belongs to instances={' and instances='.join(BY_WAIST)}, and has"
                f" no effect with instances={decoder}. Leave it out."
            )


def _read_network(path: Path, device: str, options: PredictionOptions) -> Network:
    tile, batch_size = options.tile, options.batch_size
    # imported here: exported files do not need torch
    if path.suffix in (".onnx", ".xml"):
        from segkit.inference.runtimes.exported import OnnxNetwork, OpenVinoNetwork

        kind = OnnxNetwork if path.suffix == ".onnx" else OpenVinoNetwork
        return kind(path, device, tile, batch_size)
    if path.suffix == ".pt2":
        from segkit.inference.runtimes.torch_export_network import TorchExportNetwork

        return TorchExportNetwork(path, device, tile, batch_size)
    from segkit.checkpoint import reading as checkpoint
    from segkit.inference.runtimes.torch_network import TorchNetwork

    return TorchNetwork(*checkpoint.read(path), device, tile, batch_size, options.precision)
