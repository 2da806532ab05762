"""Read a predictor from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segkit.config.settings import ModelSettings, PredictionOptions
from segkit.core.errors import SegkitError
from segkit.inference.objects.instances import BY_WAIST
from segkit.inference.predictor import Predictor, parse_options
from segkit.inference.runtimes.network import Network


def load(
    path: Path | str | Sequence[Path | str], device: str = "auto", **options: Any
) -> Predictor:
    """Load a predictor. Its files are all that is needed: no network, no training data.

    Args:
        path: A ``best.ckpt`` or ``last.ckpt`` of a run, or a file that ``python -m segkit.export``
            wrote; or several of them, whose probabilities are averaged.
        device: Where to compute: "auto" takes a GPU if there is one.
        options: Options of :class:`segkit.config.settings.PredictionOptions`: tta, instances,
            min_size, waist, fill_holes, threshold, tile, overlap, context, batch_size.

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
    networks = [_read(Path(each), device, parsed.tile, parsed.batch_size) for each in paths]
    predictor = Predictor(networks, **options)
    _require_effect(predictor, parsed)
    return predictor


def load_from_settings(settings: ModelSettings) -> Predictor:
    """Load the predictor that the settings of a command describe."""
    options = settings.model_dump(include=set(PredictionOptions.model_fields))
    return load(settings.checkpoint, settings.device, **options)


def _require_effect(predictor: Predictor, options: PredictionOptions) -> None:
    """Raise a SegkitError if an option of objects would have no effect."""
    decoder, defaults = predictor.instances, PredictionOptions()
    fits = predictor.target.decoders_for(predictor.card.mode)
    for name in ("min_size", "waist", "fill_holes"):
        value = getattr(options, name)
        if not value or value == getattr(defaults, name):
            continue
        if decoder is None:
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


def _read(path: Path, device: str, tile: int | None, batch_size: int | None) -> Network:
    # imported here: exported files do not need torch
    if path.suffix == ".onnx":
        from segkit.inference.runtimes.onnx_network import OnnxNetwork

        return OnnxNetwork(path, device, tile, batch_size)
    if path.suffix == ".xml":
        from segkit.inference.runtimes.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork(path, device, tile, batch_size)
    if path.suffix == ".pt2":
        from segkit.inference.runtimes.torch_export_network import TorchExportNetwork

        return TorchExportNetwork(path, device, tile, batch_size)
    from segkit.checkpoint import reading as checkpoint
    from segkit.inference.runtimes.torch_network import TorchNetwork

    return TorchNetwork(*checkpoint.read(path), device, tile, batch_size)
