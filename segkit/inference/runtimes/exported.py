"""What an exported file says of itself, and how the network in it is used. No torch."""

from __future__ import annotations

import json
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
from segkit.images.channels import convert_channels
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.batching import plan_batches
from segkit.inference.tiles.tiling import Windows

KEY = "segkit"
"""Of the entry in the metadata of a file."""
FORMAT = 1
"""Of that entry; a newer one is refused."""
INPUT = "image"
"""Name of the input of the graph."""
EXPORT = "python -m segkit.export checkpoint=CKPT output=FILE"

Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class Contents:
    """What an exported file holds besides the graph: all that a predictor needs.

    Attributes:
        card: What belongs to the network.
        windows: Which tiles it takes; ``side`` is the largest that is worth while.
        normalizes: Whether the graph takes intensities as those of the training images, float32,
            and normalises them itself.
        activates: Whether the graph gives probabilities; else logits.
        bytes_per_pixel: Memory that predicting takes, about.
        precision: Of weights and activations.
        versions: Of what wrote the file.
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
        """Name of the output of the graph."""
        return "probabilities" if self.activates else "logits"

    def to_json(self) -> str:
        """For the metadata of a file."""
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

    def windows_of(self, side: int) -> Windows:
        """The windows of that largest side."""
        return replace(self.windows, side=side)


class ExportedNetwork(Network):
    """The network in an exported file. A member says how its graph is run.

    Args:
        contents: What the file says of itself.
        device: Where it computes.
        tile: Side of the tiles in pixels; None: what the file says, or what memory allows.
        batch_size: Tiles in a batch; None: what memory allows.
        free: Bytes of free memory.
    """

    def __init__(
        self, contents: Contents, device: str, tile: int | None, batch_size: int | None, free: int
    ) -> None:
        self.contents, self.card, self.device = contents, contents.card, device
        self.windows, self.batch_size = plan_batches(
            contents.windows_of,
            contents.windows.side,
            tile,
            batch_size,
            free,
            contents.bytes_per_pixel,
            "cpu" if device.lower() == "cpu" else "cuda",
        )

    def prepare(self, window: NDArray[Any]) -> NDArray[np.float32]:
        """(h, w, C) as read -> (C, h, w), normalised unless the graph does that itself."""
        if not self.contents.normalizes:
            return super().prepare(window)
        image = convert_channels(window, self.card.in_channels)
        raw = self.card.normalization.convert(image).transpose(2, 0, 1)
        return np.ascontiguousarray(raw, np.float32)

    def probabilities(self, batch: NDArray[np.float32]) -> Any:
        """(B, C, h, w) -> (B, num_logits, h - 2 context, w - 2 context) float32."""
        given = self._run(batch)
        return given if self.contents.activates else self._activate(given)

    @abstractmethod
    def _run(self, batch: NDArray[np.float32]) -> Any:
        """What the graph gives for a batch (B, C, h, w)."""

    def _activate(self, logits: Any) -> Any:
        """Logits of numpy to probabilities, as the heads do it."""
        if self.card.mode == "multiclass":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        # exp of a large number would overflow
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def require_file(path: Path) -> None:
    """Raise a SegkitError where there is no such file."""
    if not path.is_file():
        raise SegkitError(f"checkpoint: there is no file {path.resolve()}.")


def broken(path: Path, kind: str, error: Exception) -> NoReturn:
    """Raise the error of a file that its runtime cannot read."""
    reason = str(error).strip().partition("\n")[0] or repr(error)
    raise SegkitError(
        f"{path} cannot be read as {kind}: {reason}. It may be cut off or no such file; export it"
        f" again: {EXPORT}."
    ) from error


def foreign(path: Path, kind: str) -> NoReturn:
    """Raise the error of a file that somebody else exported."""
    raise SegkitError(
        f"{path} is {kind}, but no model of segkit: it has no entry '{KEY}' in its metadata, which"
        f" tells classes and intensities. Write one with {EXPORT}."
    )


def guarded(run: Callable[[], Any], path: Path, shape: tuple[int, ...]) -> Any:
    """What a runtime gives, its own errors said as ours."""
    try:
        return run()
    except SegkitError:
        raise
    except Exception as error:  # each runtime has its own
        reason = str(error).strip().partition("\n")[0]
        raise SegkitError(
            f"{path} cannot be run on a batch of the shape {shape}: {reason}. With too little"
            " memory, smaller tiles help: tile=256, batch_size=1."
        ) from error
