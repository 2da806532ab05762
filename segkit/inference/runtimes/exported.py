"""Exported files: their metadata, and the networks in those of ONNX and OpenVINO. No torch."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from scipy.special import expit, softmax

from segkit.checkpoint.card import FORMAT as CARD_FORMAT
from segkit.checkpoint.card import ModelCard, describe_detail
from segkit.core.errors import SegkitError
from segkit.core.memory import UNKNOWN_MEMORY, find_main_memory
from segkit.inference.runtimes.digest import check_digest
from segkit.inference.runtimes.network import Network, is_out_of_memory
from segkit.inference.tiles.tiling import Windows, plan_batches

KEY = "segkit"
"""Key of the entry in the metadata of a file."""
FORMAT = 1
"""Version of that entry; newer ones are refused."""
INPUT = "image"
"""Name of the graph's input."""
EXPORT = "python -m segkit.export checkpoint=CKPT output=FILE"

Precision = Literal["float32", "int8"]
_BROKEN = SegkitError, ValueError, KeyError, TypeError, AttributeError, RecursionError


@dataclass(frozen=True)
class Contents:
    """The metadata of an exported file: all that a predictor needs besides the graph.

    Attributes:
        card: The model's card; of several networks that of the first, whose validation images are
            those that none was trained on.
        windows: The tiles that the network takes; ``side`` is the largest useful one.
        normalizes: Whether the graph takes the intensities of the training images as float32 and
            normalizes them itself.
        activates: Whether the graph returns probabilities; else logits.
        bytes_per_pixel: Approximate memory of a prediction.
        precision: Precision of weights and activations.
        versions: Versions of the software that wrote the file.
        others: The cards of further networks, whose probabilities the graph averages with those of
            the first. Each normalizes by its own numbers.
    """

    card: ModelCard
    windows: Windows
    normalizes: bool
    activates: bool
    bytes_per_pixel: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    precision: Precision = "float32"
    versions: dict[str, str] = field(default_factory=dict)
    others: tuple[ModelCard, ...] = ()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of all networks in the file."""
        return self.card, *self.others

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        return "probabilities" if self.activates else "logits"

    def to_json(self) -> str:
        """The entry for the metadata of a file."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__}
        plain |= {"card": self.card.to_dict(), "windows": asdict(self.windows)}
        plain["others"] = [card.to_dict() for card in self.others]
        return json.dumps({"format": FORMAT, **plain}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Contents:
        """The inverse of :meth:`to_json`.

        Raises:
            SegkitError: It was written by a newer segkit, or is broken.
        """
        try:
            stored = json.loads(text)
            # files of segkit 0.1.0 have no others
            cards = [stored["card"], *stored.get("others", [])]
            if stored["format"] <= FORMAT and all(c.get("format", 1) <= CARD_FORMAT for c in cards):
                known = {key: stored[key] for key in cls.__dataclass_fields__ if key != "others"}
                known["card"], *known["others"] = map(ModelCard.from_dict, cards)
                return TypeAdapter(cls).validate_python(known)
        except _BROKEN as error:
            details = error.errors() if isinstance(error, ValidationError) else []
            other = str(error) if isinstance(error, SegkitError) else repr(error)
            said = "; ".join(map(describe_detail, details)) or other
            raise SegkitError(
                f"the metadata of {path} are broken ({said}). Export it again: {EXPORT}."
            ) from error
        raise SegkitError(
            f"{path} was exported by a newer segkit ({stored.get('versions')}). Upgrade segkit, or"
            f" export the checkpoint again with this one: {EXPORT}."
        )


class ExportedNetwork(Network):
    """The network in an exported file. A member opens the file and runs its graph.

    The CPU uses OMP_NUM_THREADS threads, or all cores.

    Args:
        path: The file.
        device: "auto" takes a GPU if the runtime can use one; "cpu" or a name of the runtime.
        tile: Side of the tiles in pixels. None: as large as useful and as memory allows.
        batch_size: Tiles in a batch. None: as many as memory allows.
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        tile: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not path.is_file():
            raise SegkitError(f"checkpoint: there is no file {path.resolve()}.")
        self.path = path
        self._graph, contents, self.device, free = self._open(path, device)
        self.contents, self.card = contents, contents.card
        self.windows, self.batch_size = plan_batches(
            lambda side: replace(contents.windows, side=side),
            contents.windows.side,
            tile,
            batch_size,
            free,
            contents.bytes_per_pixel,
            "cpu" if self.device == "cpu" else "cuda",
        )

    @classmethod
    @abstractmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        """What runs the graph in a file, its metadata, the device in use and its free memory."""

    def prepare(self, window: NDArray[Any]) -> NDArray[np.float32]:
        """(h, w, C) as read -> (C, h, w), normalized unless the graph does that itself."""
        if not self.contents.normalizes:
            return super().prepare(window)
        image = self.card.convert_channels(window)
        raw = self.card.normalization.convert(image).transpose(2, 0, 1)
        return np.ascontiguousarray(raw, np.float32)

    def _compute(self, batch: NDArray[np.float32]) -> Any:
        try:
            given = self._graph(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise SegkitError(
                f"{self.path} cannot be run on a batch of the shape {tuple(batch.shape)}:"
                f" {_first_line(error)}."
            ) from error
        return given if self.contents.activates else self._activate(given)

    def _activate(self, logits: Any) -> Any:
        """Convert logits to probabilities, as the heads do."""
        if self.card.mode != "multiclass":
            return expit(logits)
        if not self.card.tells_objects:
            return softmax(logits, axis=1)
        classes, numbers = np.split(logits, [self.num_logits], 1)
        return np.concatenate([softmax(classes, axis=1), numbers], 1)


class OnnxNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=onnx`` wrote."""

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        try:
            import onnxruntime
        except ImportError as error:
            raise SegkitError(
                f"{path} needs ONNX Runtime, which is not installed: pip install"
                " 'segkit-torch[onnx]', or onnxruntime-gpu for a GPU."
            ) from error
        providers, used = choose_providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _read_threads() or 0  # 0: all cores
        options.log_severity_level = 3  # errors only
        try:
            check_digest(path)
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen types
            raise_broken(path, "an ONNX model", error)
        found = session.get_modelmeta().custom_metadata_map
        if KEY not in found:
            raise_foreign(path, "an ONNX model")
        contents = Contents.from_json(found[KEY], path)
        if "CUDAExecutionProvider" not in session.get_providers():
            # ONNX Runtime falls back to the CPU if the libraries of CUDA are missing
            if device.startswith("cuda"):
                raise SegkitError(
                    f"device '{device}' cannot be used: ONNX Runtime could not load CUDA. Install"
                    " the CUDA and cuDNN that onnxruntime-gpu was built for, or use device=cpu."
                )
            used = "cpu"
        # ONNX Runtime does not report the memory of a GPU
        free = find_main_memory() if used == "cpu" else UNKNOWN_MEMORY
        return lambda batch: session.run(None, {INPUT: batch})[0], contents, used, free


def choose_providers(device: str, available: list[str]) -> tuple[list[Any], str]:
    """The execution providers of ONNX Runtime for a device, and the name of the device in use."""
    kind, _, number = device.partition(":")
    cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not cuda):
        return ["CPUExecutionProvider"], "cpu"
    if kind in ("auto", "cuda") and cuda and (not number or number.isdecimal()):
        options = {"device_id": int(number or 0)}
        providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
        return providers, "cuda" if device == "auto" else device
    known = "auto, cpu, cuda" if cuda else "auto, cpu; a GPU needs onnxruntime-gpu"
    raise SegkitError(f"device '{device}' cannot be used with an ONNX file here: use {known}.")


class OpenVinoNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=openvino`` wrote, by its .xml file."""

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise SegkitError(
                f"{path} has no weights: {weights.name} must be beside it. Copy both files."
            )
        try:
            import openvino
        except ImportError as error:
            raise SegkitError(
                f"{path} needs OpenVINO, which is not installed: pip install"
                " 'segkit-torch[openvino]'."
            ) from error
        core = openvino.Core()
        used = choose_openvino_device(device, core.available_devices)
        # the default is half precision on GPUs and on some CPUs
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if used == "CPU" and (threads := _read_threads()) is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            check_digest(path, weights)
            model = core.read_model(path)
        except Exception as error:  # from C++
            raise_broken(path, "an OpenVINO model", error)
        if not model.has_rt_info([KEY]):
            raise_foreign(path, "an OpenVINO model")
        contents = Contents.from_json(model.get_rt_info([KEY]).astype(str), path)
        try:
            compiled = core.compile_model(model, used, options)
        except Exception as error:
            raise_broken(path, f"an OpenVINO model for the device '{device}'", error)
        # a copy: the next call writes into the same memory
        return (
            lambda batch: np.array(compiled(batch)[0]),
            contents,
            used.lower(),
            find_main_memory(),
        )


def choose_openvino_device(device: str, available: list[str]) -> str:
    """OpenVINO's name of a device."""
    if device == "auto":
        return next((name for name in available if name.startswith("GPU")), "CPU")
    wanted = device.upper()
    if wanted in available or any(name.partition(".")[0] == wanted for name in available):
        return wanted
    known = ", ".join(["auto", *(name.lower() for name in available)])
    raise SegkitError(f"device '{device}' cannot be used with an OpenVINO file here: use {known}.")


def _read_threads() -> int | None:
    """The number of threads that OMP_NUM_THREADS asks for."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else None


def raise_broken(path: Path, kind: str, error: Exception) -> NoReturn:
    """Raise the error of a file that its runtime cannot read."""
    raise SegkitError(
        f"{path} cannot be read as {kind}: {_first_line(error)}. It may be incomplete or of another"
        f" format; export it again: {EXPORT}."
    ) from error


def raise_foreign(path: Path, kind: str) -> NoReturn:
    """Raise the error of a file that segkit did not export."""
    raise SegkitError(
        f"{path} is {kind}, but not a model of segkit: its metadata has no entry '{KEY}' with"
        f" classes and intensities. Write one with {EXPORT}."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or repr(error)
