"""Every backbone of timm as an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError, did_you_mean
from segkit.models.encoders.base import Encoder, Pretrained
from segkit.models.encoders.probing import Blocks, probe
from segkit.models.encoders.pruning import drop_unused
from segkit.models.encoders.pyramid import SimplePyramid
from segkit.models.encoders.weights import check_fit, find_weights, read_file

# Arguments of timm.create_model that an option of the encoder stands for.
OWNED = {
    "in_chans": "in_channels, which follows the data",
    "img_size": "encoder.img_size",
    "out_indices": "encoder.depth and encoder.blocks",
    "features_only": "nothing: an encoder always gives its maps",
    "num_classes": "head.num_classes",
    "pretrained": "encoder.pretrained",
    "pretrained_cfg": "encoder.pretrained",
    "pretrained_cfg_overlay": "encoder.pretrained",
    "checkpoint_path": "encoder.pretrained=PATH",
    "model_name": "encoder.name",
}


class TimmEncoder(Encoder, name="timm"):
    """A backbone of timm (Wightman 2019), its maps measured and brought to the encoder contract.

    ``Encoder.build("resnet34")`` is ``Encoder.build("timm", model="resnet34")``. Backbones without
    stride 2 have no such level. Plain vision transformers, all of whose maps have one stride, get a
    small feature pyramid. Backbones that take one input size only are built for ``img_size``.

    Args:
        model: Name of a timm model, with or without the tag of its weights.
        in_channels: Channels of the image; pretrained first convolutions are adapted.
        depth: Number of levels to keep, finest first; None for all.
        pretrained: True: the weights are needed; "auto": taken if the cache or the hub has them,
            else one warning; False; or the path of a local .safetensors or .pth file.
        img_size: Input size in pixels of a backbone that takes one size only, rounded up to a
            multiple of its last stride; others ignore it. None: the size that timm gives.
        blocks: How a plain transformer makes its pyramid: "several" takes evenly spaced blocks,
            "last" the last one only (ViTDet).
        timm_args: Further arguments of ``timm.create_model``, such as ``{drop_path_rate: 0.1}``.
            Without pretrained weights, the norms that timm starts at 0 do not, unless
            ``zero_init_last`` is among them.

    Raises:
        SegkitError: There is no such model, it cannot be an encoder, or the weights do not fit it.
    """

    def __init__(
        self,
        model: str,
        in_channels: Annotated[int, Field(ge=1)] = 3,
        depth: Annotated[int, Field(ge=1)] | None = None,
        pretrained: Pretrained = "auto",
        img_size: Annotated[int, Field(ge=1)] | None = None,
        blocks: Blocks = "several",
        timm_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for key in OWNED.keys() & (timm_args or {}).keys():
            raise SegkitError(f"encoder.timm_args: '{key}' is not for timm_args, use {OWNED[key]}.")
        config = _pretrained_config(model)
        found = probe(
            model,
            {"features_only": True, "in_chans": in_channels, **(timm_args or {})},
            depth=depth,
            blocks=blocks,
            img_size=img_size,
            own_size=int(config.get("input_size", (3, 224, 224))[-1]),
        )
        self.in_channels = in_channels
        self.backbone = found.backbone
        weights: Path | None = None
        if isinstance(pretrained, Path):
            weights = pretrained
        elif pretrained:
            weights = find_weights(config, model, required=pretrained is True)
        if weights is not None:
            self.backbone = _load(model, weights, found.arguments)
            self.pretrained_from = str(config.get("hf_hub_id") or config.get("url"))
            if isinstance(pretrained, Path):
                check_fit(self.backbone, weights, model)
                self.pretrained_from = str(pretrained)
            if len(config.get("mean", ())) == in_channels:
                self.input_stats = tuple(config["mean"]), tuple(config["std"])
        elif "zero_init_last" not in (timm_args or {}):
            _start_blocks(self.backbone)

        if depth is not None:
            side = 2 * found.multiple
            size = found.fixed_size or (side, side)
            drop_unused(self.backbone, torch.zeros(1, in_channels, *size))
        self.channels, self.strides = found.channels, found.strides
        self.fixed_size = found.fixed_size
        self.multiple = found.multiple
        self._channels_last, self._exact = found.channels_last, found.exact
        self._raw_strides = found.strides
        self.pyramid: SimplePyramid | None = None
        if found.plain:
            self.pyramid = SimplePyramid(found.channels, found.strides[0], depth)
            self.channels, self.strides = self.pyramid.channels, self.pyramid.strides

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in, H, W) -> [(B, channels[i], H / strides[i], W / strides[i])], finest first."""
        maps: list[Tensor] = self.backbone(x)
        if self._channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        if not self._exact:  # unpadded convolutions: put the maps onto the grid of their stride
            height, width = x.shape[-2:]
            maps = [
                F.interpolate(m, (height // s, width // s), mode="bilinear", align_corners=False)
                for m, s in zip(maps, self._raw_strides, strict=True)
            ]
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        return maps

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters of the timm model, without those of the pyramid of a plain transformer."""
        return list(self.backbone.parameters())


def _start_blocks(backbone: nn.Module) -> None:
    """Let residual blocks take part from the first step on.

    timm starts the last norm of each with a scale of 0 (Goyal et al., "Accurate, Large Minibatch
    SGD", 2017), for long trainings in large batches. The short ones from scratch that segmentation
    has learn faster from 1 / sqrt(N) for N blocks, which keeps the sum of them all at the size of
    its input (De and Smith, "Batch Normalization Biases Residual Blocks Towards the Identity
    Function in Deep Networks", 2020).
    """
    weights = [getattr(layer, "weight", None) for layer in backbone.modules()]
    scales = [w for w in weights if isinstance(w, nn.Parameter) and w.ndim == 1]
    # a network that is only measured has no numbers
    idle = [scale for scale in scales if not (scale.is_meta or scale.any())]
    for scale in idle:
        nn.init.constant_(scale, len(idle) ** -0.5)


def _pretrained_config(model: str) -> dict[str, Any]:
    """What timm knows of the model's weights; empty where there are none.

    Raises:
        SegkitError: timm does not know the model or the tag of its weights.
    """
    if not timm.is_model(model):
        raise SegkitError(
            f"timm has no model '{model}'.{did_you_mean(model, timm.list_models())}"
            " List them with segkit.Encoder.names()."
        )
    try:
        config: Any = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        name, _, tag = model.partition(".")
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{name}.*")] or ["none"]
        raise SegkitError(
            f"timm has no weights '{tag}' of the model '{name}'. Known: {', '.join(tags)}."
        ) from error
    return config.to_dict() if config else {}


def _load(model: str, weights: Path, arguments: dict[str, Any]) -> nn.Module:
    """The backbone with the weights of a file, whose first convolution timm adapts."""
    raw = weights.suffix == ".npz"  # numpy arrays of the original authors, which timm translates
    if not raw:
        read_file(weights)  # timm might read more than data
    overlay = {"file": str(weights), "custom_load": raw}
    try:
        return timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
        )
    except Exception as error:  # each filter of timm has its own
        raise SegkitError(
            f"encoder.pretrained: {weights} does not fit the timm model '{model}'. {error}"
        ) from error
