"""From files to a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.config.settings import WAIST, ModelSettings, PredictionOptions
from segkit.core.errors import SegkitError
from segkit.inference.objects.instances import BY_WAIST
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.network import Network


def load(
    path: Path | str | Sequence[Path | str],
    device: str = "auto",
    *,
    tile: int | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Predictor:
    """The predictor of a file, which is all that is needed: no network, no training data.

    Args:
        path: A ``best.ckpt`` or ``last.ckpt`` of a run, or a file that ``python -m segkit.export``
            wrote; or several of them, whose probabilities are averaged.
        device: Where to compute: "auto" takes a GPU if there is one.
        tile: Side of the tiles of large images in pixels; None: from the training's crops and the
            memory.
        batch_size: Tiles that are predicted at once; None: what memory allows.
        options: Those of :class:`Predictor`: tta, instances, min_size, waist, fill_holes, overlap,
            context, threshold.

    Raises:
        SegkitError: There is no such file, or it is none of segkit, or an option cannot be used or
            would do nothing.
    """
    for name, value in (("tile", tile), ("batch_size", batch_size)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise SegkitError(f"{name} is {value!r}: give a number of 1 or more, or None.")
    paths = [path] if isinstance(path, str | Path) else path
    if not (isinstance(paths, Sequence) and all(isinstance(each, str | Path) for each in paths)):
        raise SegkitError(f"checkpoint: give a path, or a list of paths, not {path!r}.")
    if not paths:
        raise SegkitError("checkpoint: the list is empty. Give one file or more.")
    networks = [_network(Path(each), device, tile, batch_size) for each in paths]
    for network in networks:
        fixed = network.windows.fixed
        if tile is not None and fixed is not None and set(fixed) != {tile}:
            raise SegkitError(
                f"tile={tile} cannot be had: this network takes tiles of {fixed[0]} x {fixed[1]}"
                " pixels only. Leave tile out."
            )
    predictor = Predictor(networks, **options)
    _require_used(predictor, options)
    return predictor


def load_from_settings(settings: ModelSettings) -> Predictor:
    """The predictor that a command's settings describe; see :func:`load`."""
    options = settings.model_dump(include=set(PredictionOptions.model_fields))
    return load(settings.checkpoint, settings.device, **options)


def _require_used(predictor: Predictor, options: dict[str, Any]) -> None:
    """See that no option of objects is given that would do nothing.

    Raises:
        SegkitError: One is.
    """
    decoder = predictor.instances
    fit = predictor.target.decoders_for(predictor.card.mode)
    for name, plain in (("min_size", 0), ("waist", WAIST), ("fill_holes", False)):
        value = options.get(name)
        if value in (None, plain):
            continue
        if decoder is None:
            remedy = f"Give instances={' or instances='.join(fit)}, or leave" if fit else "Leave"
            raise SegkitError(
                f"{name}={value} is about objects, and this model is used without telling them"
                f" apart (instances=null). {remedy} {name} out."
            )
        if name == "waist" and decoder not in BY_WAIST:
            raise SegkitError(
                f"waist={value} is of instances={' and instances='.join(BY_WAIST)}, and does"
                f" nothing with instances={decoder}. Leave it out."
            )


def _network(path: Path, device: str, tile: int | None, batch_size: int | None) -> Network:
    # imported here: an exported file needs none of torch
    if path.suffix == ".onnx":
        from segkit.inference.runtimes.onnx_network import OnnxNetwork

        return OnnxNetwork.read(path, device, tile, batch_size)
    if path.suffix == ".xml":
        from segkit.inference.runtimes.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork.read(path, device, tile, batch_size)
    if path.suffix == ".pt2":
        from segkit.inference.runtimes.torch_export_network import TorchExportNetwork

        return TorchExportNetwork.read(path, device, tile, batch_size)
    from segkit.checkpoint import reading as checkpoint
    from segkit.inference.runtimes.torch_network import TorchNetwork

    return TorchNetwork(*checkpoint.read(path), device, tile, batch_size)
