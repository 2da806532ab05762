"""Encoder, neck and head as one network, and its construction by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkit.core.errors import SegkitError
from segkit.models.contract import check_head, check_neck, is_foreign
from segkit.models.conv import crop_to
from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.heads.queries import QueriesHead
from segkit.models.necks import Neck
from segkit.models.queries import Masks
from segkit.models.sizes import check_valid, valid_input

Part = str | Mapping[str, Any]


class Segmenter(nn.Module):
    """Logits (B, num_logits, H, W) for an image (B, in_channels, H, W), for every H, W >= 1.

    The image is padded at its lower and right border to what the encoder needs, and the logits are
    cropped back. An unpadded network (``padding="valid"``) gives a smaller map, see
    :meth:`output_size`.

    Args:
        encoder: The encoder.
        neck: A neck that was built for the encoder's channels and strides.
        head: A head that was built for the neck's channels.
        auxiliary: Heads for the other levels of the neck, in its order, which only
            :meth:`all_logits` runs.
    """

    def __init__(
        self, encoder: Encoder, neck: Neck, head: Head, auxiliary: list[Head] | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.neck, self.head = encoder, neck, head
        self.auxiliary = nn.ModuleList(auxiliary or [])
        self._multiple = encoder.multiple or encoder.strides[-1]

    def forward(self, x: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, num_logits, H, W), and one more map of a head that tells objects.

        ``features`` are what :meth:`extract` gives for ``x``, if that is known.
        """
        if isinstance(self.head, QueriesHead):
            return self.draw(self.find_masks(x, features=features)[-1])
        feature = self.neck(self._encode(x, features))  # (B, out_channels, H' / s, W' / s)
        return self._restore(self.head(feature), self.neck.out_stride, x.shape[-2:])

    def extract(self, x: Tensor) -> list[Tensor]:
        """As :meth:`Encoder.extract`, for an image (B, C, H, W) of any size."""
        return self.encoder.extract(self._pad(x))

    def _encode(self, x: Tensor, features: list[Tensor] | None) -> list[Tensor]:
        if features is not None:
            return self.encoder.complete(features)
        maps: list[Tensor] = self.encoder(self._pad(x))
        return maps

    def all_logits(
        self, x: Tensor, recompute: bool = False, features: list[Tensor] | None = None
    ) -> list[Any]:
        """What the loss takes: the logits of :meth:`forward`, then those of each auxiliary head.

        All have the same size. Of a head of queries it is a list of :class:`Masks`, one for each of
        its layers, in which the last is the result.

        With ``recompute``, encoder and neck run again in the backward pass instead of keeping their
        inner maps for it. The gradients and the statistics of batch norms stay the same.
        ``features`` are as for :meth:`forward`.
        """
        if isinstance(self.head, QueriesHead):
            return [self.find_masks(x, recompute, features)]
        heads, levels = [self.head, *self.auxiliary], self._find_levels(x, recompute, features)
        return [
            self._restore(head(level), stride, x.shape[-2:])
            for head, level, stride in zip(heads, levels, self.neck.level_strides, strict=False)
        ]

    def _find_levels(
        self, x: Tensor, recompute: bool, features: list[Tensor] | None
    ) -> list[Tensor]:
        if not recompute:
            return self.neck.levels(self._encode(x, features))
        maps = _recompute(self.encoder, lambda x: self._encode(x, features), x)
        return _recompute(self.neck, self.neck.levels, maps)

    def find_masks(
        self, x: Tensor, recompute: bool = False, features: list[Tensor] | None = None
    ) -> list[Masks]:
        """What the queries of the head have found after each layer, for images (B, C, H, W).

        ``recompute`` and ``features`` are as for :meth:`all_logits`.
        """
        head, stride, size = self.head, self.neck.out_stride, (x.shape[-2], x.shape[-1])
        assert isinstance(head, QueriesHead)
        if not self.encoder.query_channels:
            return head.find_masks(self._find_levels(x, recompute, features), stride, size)

        def predict(maps: list[Tensor], queries: Tensor) -> Masks:
            return head.predict(queries, head.embed_pixels(self.neck(maps)), stride, size)

        return self.encoder.find_masks(self._pad(x), head.start.weight, predict)

    def draw(self, found: Masks) -> Tensor:
        """What queries have found as :meth:`forward` returns it."""
        head = self.head
        assert isinstance(head, QueriesHead)
        logits = self._restore(head.score_classes(found), found.stride, found.size)
        if not head.tells_objects:
            return logits
        found, numbers = head.drop_idle(found)
        masks = self._restore(found.draw(), found.stride, found.size)  # (B, Q, H, W)
        return torch.cat([logits, head.find_objects(found, masks, numbers)], 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the logits for an image of that size.

        Raises:
            SegkitError: The network cannot take that size: it is unpadded, or of one size.
        """
        if self.encoder.padding == "valid":
            return check_valid(height, width, len(self.encoder.strides))
        fixed = self.encoder.fixed_size
        if fixed is not None and (height > fixed[0] or width > fixed[1]):
            raise SegkitError(
                f"the encoder was built for {fixed[0]} x {fixed[1]} pixels and cannot take {height}"
                f" x {width}. Build it with encoder.img_size={max(height, width)}, or predict in"
                " tiles: segkit.load(...)(image) does."
            )
        return height, width

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width of a small image that the network takes."""
        if self.encoder.padding == "valid":
            return (valid_input(64, len(self.encoder.strides)),) * 2
        return self.encoder.example_size

    def _pad(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        self.output_size(height, width)
        if self.encoder.padding == "valid":
            return x
        if self.encoder.fixed_size is not None:
            down, right = self.encoder.fixed_size[0] - height, self.encoder.fixed_size[1] - width
        else:
            # At least 2 x 2 pixels on the coarsest level: batch and instance norm need several.
            m = self._multiple
            down = max(-height % m, 2 * m - height)
            right = max(-width % m, 2 * m - width)
        if down == 0 and right == 0:
            return x
        return F.pad(x, (0, right, 0, down), mode="replicate")

    def _restore(self, logits: Tensor, stride: int, size: Sequence[int]) -> Tensor:
        if stride > 1:
            logits = F.interpolate(
                logits, scale_factor=float(stride), mode="bilinear", align_corners=False
            )
        if self.encoder.padding == "valid":
            # Coarser levels of an unpadded network reach beyond the logits on every side.
            return crop_to(logits, self.output_size(size[0], size[1]))
        return logits[..., : size[0], : size[1]]


def _recompute(part: nn.Module, function: Callable[[Any], list[Tensor]], x: Any) -> list[Tensor]:
    result: list[Tensor] = checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _restore_buffers(part))
    )
    return result


@contextmanager
def _restore_buffers(part: nn.Module) -> Iterator[None]:
    """Undo what a forward pass inside does to buffers, such as the statistics of batch norms."""
    saved = [(buffer, buffer.clone()) for buffer in part.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def create_model(
    encoder: Part | Encoder = "resnet34",
    neck: Part = "unet",
    head: Part = "binary",
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    auxiliary: int = 0,
    img_size: int | None = None,
) -> Segmenter:
    """Build a network from the names of its parts.

    Args:
        encoder: Name of an encoder or of any timm model, a mapping of ``name`` and options, or an
            encoder that is already built.
        neck: Name of a neck, or a mapping of ``name`` and options.
        head: Name of a head, or a mapping of ``name`` and options.
        num_classes: Number of classes, background included; a binary head needs none.
        in_channels: Channels of the image.
        auxiliary: Number of auxiliary heads on other levels of the neck, for deep supervision.
        img_size: Size in pixels of the training images, for backbones that take one size only
            (unless the encoder's own option gives another).

    Raises:
        SegkitError: A name or an option is unknown, the parts do not fit each other, or one from
            outside segkit gives maps of other shapes than it declares.

    Example:
        >>> import torch
        >>> resnet = {"name": "resnet18", "pretrained": False}
        >>> model = create_model(encoder=resnet, neck="fpn", head="multiclass", num_classes=5)
        >>> model(torch.rand(2, 3, 211, 317)).shape
        torch.Size([2, 5, 211, 317])
    """
    name, options = _split("" if isinstance(encoder, Encoder) else encoder, "encoder")
    neck_name, neck_options = _split(neck, "neck")
    head_name, head_options = _split(head, "head")
    has_queries = issubclass(Head.resolve(head_name, {})[0], QueriesHead)
    # report unknown names before weights are downloaded
    neck_takes = inspect.signature(Neck.resolve(neck_name, {})[0]).parameters
    trusted = isinstance(encoder, Encoder)  # that of a checkpoint, for which nothing is run
    if not isinstance(encoder, Encoder):
        if img_size is not None and options.get("img_size") is None:
            member, _ = Encoder.resolve(name, {})
            if "img_size" in inspect.signature(member).parameters:
                options["img_size"] = img_size
        encoder = Encoder.build(name, **{"in_channels": in_channels, **options})

    if "norm" in neck_takes and neck_options.get("norm") is None:
        neck_options["norm"] = encoder.norm
    if "padding" in neck_takes:
        neck_options.setdefault("padding", encoder.padding)
    padding = neck_options.get("padding", "same")
    if padding != encoder.padding:
        raise SegkitError(
            f"encoder.padding is {encoder.padding}, but the neck '{neck_name}' is padded"
            f" '{padding}': use neck=unet, which follows the encoder."
        )
    built_neck = Neck.build(
        neck_name, channels=encoder.channels, strides=encoder.strides, **neck_options
    )
    if not trusted and is_foreign(built_neck):
        check_neck(encoder, built_neck)

    if head_options.get("num_classes") is None:
        head_options.pop("num_classes", None)
        if num_classes is not None:
            head_options["num_classes"] = num_classes
    widths = built_neck.level_channels
    if not 0 <= auxiliary < len(widths):
        raise SegkitError(
            f"{auxiliary} auxiliary heads were asked for, but the neck '{neck_name}' has"
            f" {len(widths) - 1} other levels for them."
        )
    if has_queries:
        _require_levels(encoder, auxiliary)
        head_options |= {
            "level_channels": widths,
            "level_strides": built_neck.level_strides,
            "multiple": encoder.multiple or encoder.strides[-1],
            "query_channels": encoder.query_channels,
        }
    elif encoder.query_channels:
        raise SegkitError(
            f"encoder.query_blocks with head={head_name}, which has no queries: use head=queries,"
            " or leave encoder.query_blocks out."
        )
    heads = []
    for width in widths[: auxiliary + 1]:
        heads.append(Head.build(head_name, in_channels=width, **head_options))
    if not trusted and is_foreign(heads[0]):
        for built_head, level in zip(heads, check_neck(encoder, built_neck), strict=False):
            check_head(built_head, level)
    return Segmenter(encoder, built_neck, heads[0], heads[1:])


def _require_levels(encoder: Encoder, auxiliary: int) -> None:
    """Raise a SegkitError if a head of queries cannot follow these parts."""
    if encoder.padding == "valid":
        raise SegkitError(
            "encoder.padding=valid with head=queries: queries look at whole maps, those of an"
            " unpadded network differ in what they cover. Use encoder.padding=same."
        )
    if auxiliary:
        raise SegkitError(
            f"{auxiliary} auxiliary heads with head=queries: the loss takes what each of its layers"
            " finds already. Leave auxiliary out."
        )


def _split(part: Part, family: str) -> tuple[str, dict[str, Any]]:
    if isinstance(part, str):
        return part, {}
    options = dict(part)
    if "name" not in options:
        raise SegkitError(f"{family}: a mapping needs the key 'name', got {sorted(options)}.")
    return str(options.pop("name")), options
