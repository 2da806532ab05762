"""Exported files: their metadata, and the networks in them. No torch."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import FORMAT as CARD_FORMAT
from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.images.raster import convert_channels
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


@dataclass(frozen=True)
class Contents:
    """The metadata of an exported file: all that a predictor needs besides the graph.

    Attributes:
        card: The model's card.
        windows: The tiles that the network takes; ``side`` is the largest useful one.
        normalizes: Whether the graph takes the intensities of the training images as float32 and
            normalizes them itself.
        activates: Whether the graph returns probabilities; else logits.
        bytes_per_pixel: Approximate memory of a prediction.
        precision: Precision of weights and activations.
        versions: Versions of the software that wrote the file.
    """

    card: ModelCard
    windows: Windows
    normalizes: bool
    activates: bool
    bytes_per_pixel: float
    precision: Precision = "float32"
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        return "probabilities" if self.activates else "logits"

    def to_json(self) -> str:
        """The entry for the metadata of a file."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__}
        plain |= {"card": self.card.to_dict(), "windows": asdict(self.windows)}
        return json.dumps({"format": FORMAT, **plain}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Contents:
        """The inverse of :meth:`to_json`.

        Raises:
            SegkitError: It was written by a newer segkit, or is broken.
        """
        try:
            stored = json.loads(text)
            newer = stored["format"] > FORMAT or stored["card"].get("format", 1) > CARD_FORMAT
            if not newer:
                known = {key: stored[key] for key in cls.__dataclass_fields__}
                fixed = stored["windows"]["fixed"]
                known["card"] = ModelCard.from_dict(stored["card"])
                known["windows"] = Windows(
                    **{**stored["windows"], "fixed": None if fixed is None else tuple(fixed)}
                )
                return cls(**known)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SegkitError(
                f"the metadata of {path} are broken ({error!r}). Export it again: {EXPORT}."
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
            "cpu" if self.device.lower() == "cpu" else "cuda",
        )

    @classmethod
    @abstractmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        """What runs the graph in a file, its metadata, the device in use and its free memory."""

    def prepare(self, window: NDArray[Any]) -> NDArray[np.float32]:
        """(h, w, C) as read -> (C, h, w), normalized unless the graph does that itself."""
        if not self.contents.normalizes:
            return super().prepare(window)
        image = convert_channels(window, self.card.in_channels)
        raw = self.card.normalization.convert(image).transpose(2, 0, 1)
        return np.ascontiguousarray(raw, np.float32)

    def probabilities(self, batch: NDArray[np.float32]) -> Any:
        """(B, C, h, w) -> (B, num_logits, h - 2 context, w - 2 context) float32."""
        try:
            given = self._graph(batch)
        except Exception as error:  # each runtime has errors of its own
            if not is_out_of_memory(error):
                raise SegkitError(
                    f"{self.path} cannot be run on a batch of the shape {batch.shape}:"
                    f" {_first_line(error)}."
                ) from error
        else:
            return given if self.contents.activates else self._activate(given)
        raise self.too_little_memory(batch.shape)

    def _activate(self, logits: Any) -> Any:
        """Convert logits to probabilities, as the heads do."""
        if self.card.mode == "multiclass":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        # exp of a large number would overflow
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def cpu_threads() -> int | None:
    """Threads that OMP_NUM_THREADS asks for."""
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
