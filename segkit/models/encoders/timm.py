"""Every backbone of timm as an encoder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
import torch.nn.functional as F
from pydantic import Field, TypeAdapter, ValidationError
from timm.models import get_deprecated_models, group_parameters
from torch import Tensor, nn

from segkit.core.errors import SegkitError, did_you_mean
from segkit.models.contract import eval_mode
from segkit.models.encoders.base import Encoder, Pretrained
from segkit.models.encoders.carrying import Predict, carry_queries, require_blocks
from segkit.models.encoders.freezing import find_parameters
from segkit.models.encoders.pyramid import SimplePyramid, pyramid_strides
from segkit.models.encoders.weights import check_fit, find_cached, find_weights, load_backbone
from segkit.models.queries import Masks

Blocks = Literal["several", "last", "plain"]

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
FITTED = {"out_indices", "dynamic_img_size", "strict_img_size", "img_size"}
"""Arguments of timm.create_model that are found by trying."""
LARGEST_FIXED = 4096
"""Largest input size of a backbone that takes one only: position embeddings are made for it."""


@dataclass(frozen=True)
class Backbone:
    """How a timm model is built as an encoder, and what running it has shown.

    Attributes:
        arguments: Arguments of ``timm.create_model``, of FITTED.
        multiple: Height and width of the input must be multiples of it.
        fixed_size: The only input size that it takes, None for any.
        plain: Whether all its maps have one stride, and a pyramid is to be made of them.
        channels_last: Whether its maps are (B, h, w, C).
        exact: Whether each map is exactly 1 / stride of the input; unpadded convolutions give less.
        dropped: Modules that none of its maps depends on.
    """

    arguments: dict[str, Any]
    multiple: Annotated[int, Field(ge=1)]
    fixed_size: tuple[int, int] | None
    plain: bool
    channels_last: bool
    exact: bool
    dropped: tuple[str, ...] = ()


class _UnfitError(Exception):
    """Built in this way the model is no encoder; another way may do."""


class TimmEncoder(Encoder, name="timm"):
    """A backbone of timm (Wightman 2019), its maps measured and brought to the encoder contract.

    ``Encoder.build("resnet34")`` is ``Encoder.build("timm", model="resnet34")``. Backbones without
    stride 2 have no such level. Plain vision transformers, all of whose maps have one stride, get a
    small feature pyramid. Backbones that take one input size only are built for ``img_size``.

    Args:
        model: Name of a timm model, with or without the tag of its weights.
        in_channels: Channels of the image; pretrained first convolutions are adapted.
        depth: Number of levels to keep, finest first; None keeps all.
        pretrained: True requires pretrained weights; "auto" takes them if the cache or the hub has
            them and warns otherwise; False trains from scratch; a path loads a local .safetensors
            or .pth file: weights of timm, torchvision or a part of a network that another program
            has trained, with any prefix.
        img_size: Input size in pixels of a backbone that takes one size only, rounded up to a
            multiple of its last stride; others ignore it. None takes the size of the training crops
            or, outside a training, timm's.
        blocks: How a plain transformer makes its pyramid: "several" takes evenly spaced blocks,
            "last" the last one only (ViTDet). "plain" gives the map of the last block itself.
        output_stride: Stride from which on a convolutional backbone is dilated instead of reduced
            further; None reduces as the backbone was made. Of the maps of one stride the last one
            is given.
        query_blocks: Last blocks of a plain transformer through which the queries of
            ``head=queries`` go too, with ``blocks=plain`` (Kerssies et al. 2025, "EoMT"); 0: none.
        timm_args: Further arguments of ``timm.create_model``, such as ``{drop_path_rate: 0.1}``.
            Without pretrained weights, norms that timm initialises with 0 are given a small scale,
            unless ``zero_init_last`` is set here.

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
        output_stride: Literal[8, 16, 32] | None = None,
        query_blocks: Annotated[int, Field(ge=0)] = 0,
        timm_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _refuse_owned(timm_args or {})
        model = find_current_name(model)
        config = _pretrained_config(model)
        own_size = int(config.get("input_size", (3, 224, 224))[-1])
        arguments = {"features_only": True, "in_chans": in_channels, **(timm_args or {})}
        if output_stride is not None:
            arguments["output_stride"] = output_stride
        search = _Search(model, arguments, depth, blocks, img_size, own_size)
        backbone, found = search.run()
        weights: Path | None = None
        if isinstance(pretrained, Path):
            weights = pretrained
        elif pretrained:
            weights = find_weights(config, model, required=pretrained is True)
        if weights is not None:
            names = backbone.state_dict().keys()
            backbone, state = load_backbone(model, weights, names, arguments | found.arguments)
            self.pretrained_from = str(config.get("hf_hub_id") or config.get("url"))
            if isinstance(pretrained, Path):
                if state:
                    check_fit(backbone, state, weights, model)
                self.pretrained_from = str(pretrained)
            if len(config.get("mean", ())) == in_channels:
                self.input_stats = tuple(config["mean"]), tuple(config["std"])
        elif "zero_init_last" not in (timm_args or {}):
            _scale_idle_norms(backbone)
        size = found.fixed_size or (2 * found.multiple,) * 2
        dropped = _drop_unused(backbone, torch.zeros(1, in_channels, *size))
        found = replace(found, dropped=tuple(dropped))
        self._assemble(backbone, found, in_channels, depth)
        self._carry(model, query_blocks)

    @classmethod
    def from_layout(cls, layout: Mapping[str, Any], options: dict[str, Any]) -> Encoder:
        """Build the encoder from what an earlier one has measured."""
        if "backbone" not in layout:
            return cls._measure_again(options)
        model, in_channels = find_current_name(options["model"]), options.get("in_channels", 3)
        _refuse_owned(options.get("timm_args") or {})
        try:
            found = TypeAdapter(Backbone).validate_python(layout["backbone"])
            if found.arguments.keys() - FITTED:
                raise ValueError(f"arguments={found.arguments}")
            sizes = [found.arguments.get("img_size", 1), *(found.fixed_size or ())]
            if max(sizes) > LARGEST_FIXED:
                raise ValueError(f"it is for images of {max(sizes)} pixels")
            if ":" in model:  # a repository on the hub or a folder, which timm would read
                raise ValueError("it is not one of timm")
            arguments = {**(options.get("timm_args") or {}), **found.arguments}
            if options.get("output_stride") is not None:
                arguments["output_stride"] = options["output_stride"]
            backbone = timm.create_model(
                model, pretrained=False, features_only=True, in_chans=in_channels, **arguments
            )
            for name in found.dropped:
                _replace(backbone, name, nn.Identity())
            encoder = cls.__new__(cls)
            nn.Module.__init__(encoder)
            encoder._assemble(backbone, found, in_channels, options.get("depth"))
            encoder._carry(model, options.get("query_blocks", 0))
        except Exception as error:  # each family of timm has its own
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise SegkitError(
                f"the layout of the encoder does not fit the timm model '{model}': {said}. Use the"
                " file as segkit wrote it, with the version of timm that its card names."
            ) from error
        return encoder

    @classmethod
    def _measure_again(cls, options: dict[str, Any]) -> Encoder:
        """Build the encoder of a file of version 0.1.0, which dropped nothing without a depth."""
        encoder = cls(**options)
        if options.get("depth") is None and encoder._found.dropped:
            whole = timm.create_model(
                find_current_name(options["model"]),
                pretrained=False,
                features_only=True,
                in_chans=encoder.in_channels,
                **((options.get("timm_args") or {}) | encoder._found.arguments),
            )
            encoder.backbone, encoder._found = whole, replace(encoder._found, dropped=())
        return encoder

    @classmethod
    def find_pretrained(cls, options: Mapping[str, Any]) -> Path | None:
        """As :meth:`Encoder.find_pretrained`: in the cache of the hub."""
        if options.get("pretrained", "auto") not in (True, "auto"):
            return None
        return find_cached(_pretrained_config(find_current_name(options["model"])))

    def layout(self) -> dict[str, Any]:
        """Plain data from which :meth:`rebuild` builds the encoder without running it."""
        return {**super().layout(), "backbone": asdict(self._found)}

    def _assemble(
        self, backbone: nn.Module, found: Backbone, in_channels: int, depth: int | None
    ) -> None:
        info: Any = backbone.feature_info
        self.in_channels = in_channels
        self.backbone, self._found = backbone, found
        self.channels = tuple(int(c) for c in info.channels())
        self._raw_strides = self.strides = tuple(int(r) for r in info.reduction())
        self.multiple, self.fixed_size = found.multiple, found.fixed_size
        self.pyramid: SimplePyramid | None = None
        if found.plain:
            self.pyramid = SimplePyramid(self.channels, self.strides[0], depth)
            self.channels, self.strides = self.pyramid.channels, self.pyramid.strides
        for size in (found.multiple, *(found.fixed_size or ())):
            if size % self.strides[-1]:
                raise _UnfitError(f"{size} pixels are no multiple of the stride {self.strides[-1]}")

    def _carry(self, model: str, query_blocks: int) -> None:
        """Prepare the last blocks for queries."""
        self._query_blocks, self._progress = query_blocks, 0.0
        if not query_blocks:
            return
        inner: Any = getattr(self.backbone, "model", self.backbone)
        require_blocks(inner, model, query_blocks)
        if self.pyramid is not None:
            raise SegkitError(
                f"encoder.query_blocks={query_blocks} needs the map of the last block as it is:"
                " give encoder.blocks=plain."
            )
        self.query_channels = self.channels[-1]

    def find_masks(self, x: Tensor, queries: Tensor, predict: Predict) -> list[Masks]:
        """As :meth:`Encoder.find_masks`."""
        inner: Any = self.backbone.model
        return carry_queries(inner, x, queries, self._query_blocks, self._progress, predict)

    def set_progress(self, share: float) -> None:
        """As :meth:`Encoder.set_progress`: the masks of the queries fade."""
        self._progress = share

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in, H, W) -> [(B, channels[i], H / strides[i], W / strides[i])], finest first."""
        return self.complete(self.extract(x))

    def extract(self, x: Tensor) -> list[Tensor]:
        """As :meth:`Encoder.extract`: the maps of the timm model."""
        maps: list[Tensor] = self.backbone(x)  # [(B, c_i, h_i, w_i)], or [(B, h_i, w_i, c_i)]
        if self._found.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        if not self._found.exact:  # unpadded convolutions: resize the maps to the grid
            height, width = x.shape[-2:]
            maps = [
                F.interpolate(m, (height // s, width // s), mode="bilinear", align_corners=False)
                for m, s in zip(maps, self._raw_strides, strict=True)
            ]
        return maps

    def complete(self, features: list[Tensor]) -> list[Tensor]:
        """As :meth:`Encoder.complete`: the pyramid of a plain transformer."""
        return features if self.pyramid is None else self.pyramid(features)

    def layers(self) -> list[list[nn.Parameter]]:
        """As :meth:`Encoder.layers`; of a transformer, each block is a layer."""
        model: Any = getattr(self.backbone, "model", None)  # inside what takes its blocks' maps
        if not hasattr(model, "group_matcher"):
            return super().layers()
        depths = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        found: dict[int, list[nn.Parameter]] = {}
        last = max(depths.values())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                found.setdefault(depths.get(name, last), []).append(parameter)
        return [found.get(depth, []) for depth in range(last + 1)]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters of the timm model, without those of the pyramid of a plain transformer."""
        return list(self.backbone.parameters())


@dataclass(frozen=True)
class _Search:
    """The search for a way to build a timm model for any input size, or else for one size.

    Attributes:
        model: Name of the timm model.
        arguments: What ``timm.create_model`` is given in every way.
        depth: Number of levels to keep, finest first; None for all.
        blocks: Whether a plain transformer gives several blocks or the last one, or no pyramid.
        img_size: The size to build a model of one size for; None for ``own_size``.
        own_size: The size that timm gives for the model.
    """

    model: str
    arguments: dict[str, Any]
    depth: int | None
    blocks: Blocks
    img_size: int | None
    own_size: int

    def run(self) -> tuple[nn.Module, Backbone]:
        """Try one way after the other.

        Raises:
            SegkitError: It cannot be an encoder; the message says why.
        """
        size = self.img_size or self.own_size
        attempts: list[tuple[dict[str, Any], int | None]] = [
            ({}, None),
            ({"dynamic_img_size": True}, None),  # transformers that resample their positions
            ({"strict_img_size": False}, None),  # the same in older versions of timm
            ({"img_size": size}, size),
            ({}, size),
        ]
        reasons: dict[str, str] = {}
        for extra, fixed in attempts:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of builds that are only tried
                    return self._try(extra, fixed)
            except SegkitError:
                raise
            except Exception as error:  # each family of timm has its own
                foreign = any(f"keyword argument '{key}'" in str(error) for key in extra)
                if not foreign:  # else the model has no such option, which explains nothing
                    goal = "any size" if fixed is None else f"{fixed} x {fixed} pixels"
                    reasons.setdefault(goal, (str(error) or repr(error)).strip().rstrip("."))
        given = {k: v for k, v in self.arguments.items() if k not in ("features_only", "in_chans")}
        if (stride := given.get("output_stride")) is not None:
            raise SegkitError(
                f"encoder.output_stride is {stride}, but timm cannot dilate '{self.model}'. Leave"
                " it out, or choose another convolutional backbone, such as a ResNet, EfficientNet,"
                " MobileNet or ConvNeXt."
            )
        raise SegkitError(
            f"the timm model '{self.model}'"
            + (f" with timm_args={given}" if given else "")
            + " cannot be an encoder"
            + "".join(f"; for {goal}: {why}" for goal, why in reasons.items())
            + ". Choose another model"
            + (", or another size with encoder.img_size." if self.img_size is None else ".")
        )

    def _create(self, extra: dict[str, Any]) -> Any:
        return timm.create_model(self.model, pretrained=False, **self.arguments, **extra)

    def _try(self, extra: dict[str, Any], fixed: int | None) -> tuple[nn.Module, Backbone]:
        """Build the model in one way, and run it to see whether its maps are a pyramid."""
        backbone = self._create(extra)
        reductions = [int(r) for r in backbone.feature_info.reduction()]
        full = max(reductions)
        plain = len(reductions) > 1 and len(set(reductions)) == 1
        taken = self._choose_maps(backbone.feature_info, plain)
        if taken != _indices(backbone.feature_info):
            extra = {**extra, "out_indices": taken}
            backbone = self._create(extra)
            reductions = [int(r) for r in backbone.feature_info.reduction()]
        if not plain and any(b % a or b == a for a, b in pairwise(reductions)):
            raise _UnfitError(
                f"its maps have the strides {tuple(reductions)}, no pyramid in which each divides"
                " the next"
            )
        coarsest = max(reductions)
        self._require_stride(coarsest)
        plain = plain and self.blocks != "plain"
        if plain:
            coarsest = max(coarsest, pyramid_strides(coarsest)[: self.depth][-1])
        in_channels = self.arguments["in_chans"]
        if fixed is not None:
            side = -(-fixed // coarsest) * coarsest
            if "img_size" in extra:
                extra = {**extra, "img_size": side}
                backbone = self._create(extra)
            last, exact = _measure(backbone, in_channels, (side, side))
            return backbone, Backbone(extra, coarsest, (side, side), plain, last, exact)
        # Some merge 2 x 2 pixels of their coarsest map, and some compute coarser maps than taken.
        full = max(coarsest, full)
        found: list[Backbone] = []
        reason = ""
        for multiple in sorted({coarsest, 2 * coarsest, full} if not plain else {full, 2 * full}):
            # As low as a segmenter's smallest input; as long as no model was made for, and odd.
            beyond = self.own_size // multiple + 1
            size = 2 * multiple, (beyond + 1 - beyond % 2) * multiple
            try:
                last, exact = _measure(backbone, in_channels, size)
            except Exception as error:  # each family of timm has its own
                reason = reason or str(error) or repr(error)
                continue
            found.append(Backbone(extra, multiple, None, plain, last, exact))
            if exact:
                break
        if not found:
            raise _UnfitError(reason)
        return backbone, found[-1] if found[-1].exact else found[0]

    def _require_stride(self, coarsest: int) -> None:
        wanted = self.arguments.get("output_stride", coarsest)
        if coarsest > wanted:
            raise _UnfitError(f"its coarsest map has the stride {coarsest} in spite of it")

    def _choose_maps(self, info: Any, plain: bool) -> list[int]:
        """Indices of the maps to take, so that nothing else is computed."""
        indices = _indices(info)
        reductions = [int(info.info[i]["reduction"]) for i in indices]
        if plain:
            blocks = [i for i, item in enumerate(info.info) if item["reduction"] == reductions[0]]
            levels = len(pyramid_strides(reductions[0]))
            count = min(levels, len(blocks)) if self.blocks == "several" else 1
            taken = [blocks[round(len(blocks) * (i + 1) / count) - 1] for i in range(count)]
            unused = levels - (self.depth or levels)
            taken = taken[: max(1, count - unused)]
        else:  # of maps that share a stride the last one
            after = [*reductions[1:], None]
            taken = [
                i for i, own, other in zip(indices, reductions, after, strict=True) if own != other
            ]
            levels = len(taken)
            taken = taken[: self.depth]
        if self.depth is not None and self.depth > levels:
            raise SegkitError(
                f"encoder.depth is {self.depth}, but '{self.model}' has {levels} levels."
            )
        return taken


def _indices(info: Any) -> list[int]:
    """The indices of the maps that a backbone gives, counted from the first."""
    return [i if i >= 0 else len(info.info) + i for i in info.out_indices]


def _measure(backbone: nn.Module, in_channels: int, size: tuple[int, int]) -> tuple[bool, bool]:
    """Run a backbone: whether its maps are channels-last, and exactly of timm's strides."""
    backbone.eval()
    with torch.no_grad():
        maps: list[Tensor] = backbone(torch.zeros(1, in_channels, *size))
    backbone.train()
    info: Any = backbone.feature_info
    channels, strides = [int(c) for c in info.channels()], [int(r) for r in info.reduction()]
    shapes = [tuple(m.shape) for m in maps]
    if any(m.ndim != 4 for m in maps):
        raise _UnfitError(f"its maps have the shapes {shapes}")
    channels_last = channels == [m.shape[3] for m in maps] != [m.shape[1] for m in maps]
    grids = [m.shape[1:3] if channels_last else m.shape[2:] for m in maps]
    told = channels_last or channels == [m.shape[1] for m in maps]
    near = all(  # of the longer side: unpadded convolutions may leave a single pixel of the other
        stride / 2 < size[1] / grid[1] < stride * 2
        for grid, stride in zip(grids, strides, strict=True)
    )
    if not (told and near):
        raise _UnfitError(
            f"its maps of {size} pixels have the shapes {shapes}, which are not of the channels"
            f" {channels} and the strides {strides} that timm gives for them"
        )
    return channels_last, all(
        (size[0] / stride, size[1] / stride) == tuple(grid)
        for grid, stride in zip(grids, strides, strict=True)
    )


def _drop_unused(backbone: nn.Module, x: Tensor) -> list[str]:
    """Replace the modules that no map depends on by nothing, and return their names.

    Some families of timm compute all their stages however few are taken, or keep a norm of their
    classifier. That costs time, memory and parameters that no gradient reaches, which distributed
    training takes for an error.
    """
    dropped: list[str] = []
    with eval_mode(backbone), torch.no_grad():
        trained = [each for each in backbone.parameters() if each.requires_grad]
        used = set(backbone.parameters()).difference(trained)  # some families have constants
        used.update(find_parameters(backbone, x, trained))
        unused: dict[str, nn.Module] = {}  # the outermost ones
        for name, module in backbone.named_modules():
            parameters = list(module.parameters())
            inner = any(name.startswith(f"{outer}.") for outer in unused)
            if name and parameters and not inner and used.isdisjoint(parameters):
                unused[name] = module
        maps = backbone(x) if unused else []
        for name, module in reversed(unused.items()):
            _replace(backbone, name, nn.Identity())
            try:
                now = backbone(x)
                same = all(torch.equal(a, b) for a, b in zip(now, maps, strict=True))
            except Exception:  # a missing module may lead to any error
                same = False
            if same:
                dropped.append(name)
            else:
                _replace(backbone, name, module)
    return dropped


def _replace(parent: nn.Module, name: str, by: nn.Module) -> None:
    outer, _, last = name.rpartition(".")
    parent.get_submodule(name)  # an error if there is none
    setattr(parent.get_submodule(outer), last, by)


def _scale_idle_norms(backbone: nn.Module) -> None:
    """Let residual blocks take part from the first step on.

    timm initialises the last norm of each with a scale of 0 (Goyal et al., "Accurate, Large
    Minibatch SGD", 2017), for long trainings in large batches. The short trainings from scratch
    that are usual in segmentation learn faster from 1 / sqrt(N) for N blocks, which keeps the sum
    of them all at the size of its input (De and Smith, "Batch Normalization Biases Residual Blocks
    Towards the Identity Function in Deep Networks", 2020).
    """
    weights = [getattr(layer, "weight", None) for layer in backbone.modules()]
    scales = [w for w in weights if isinstance(w, nn.Parameter) and w.ndim == 1]
    # a network on the meta device has no numbers
    idle = [scale for scale in scales if not (scale.is_meta or scale.any())]
    for scale in idle:
        nn.init.constant_(scale, len(idle) ** -0.5)


def find_current_name(model: str) -> str:
    """The name under which timm has a model, of one that it has renamed; others stay.

    Example:
        >>> find_current_name("jx_nest_tiny")
        'nest_tiny_jx'
    """
    name, _, tag = model.partition(".")
    current = get_deprecated_models().get(name)
    if current is None:  # or was removed, which timm says
        return model
    return f"{current.partition('.')[0]}.{tag}" if tag else str(current)


def _refuse_owned(timm_args: dict[str, Any]) -> None:
    for key in OWNED.keys() & timm_args.keys():
        raise SegkitError(f"encoder.timm_args: '{key}' is not for timm_args, use {OWNED[key]}.")


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
