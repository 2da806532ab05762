"""The encoder contract: an image in, a pyramid of feature maps out, finest first."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable
from segkit.models.contract import check_encoder, is_foreign
from segkit.models.conv import Norm, Padding
from segkit.models.encoders.adapters import Adapter, Targets, add_adapters
from segkit.models.encoders.freezing import find_frozen_modules, find_parameters
from segkit.models.queries import Masks
from segkit.models.sizes import valid_input

Pretrained = bool | Literal["auto"] | Path
Freeze = Literal["none", "all"] | int


class Encoder(nn.Module, Registrable, ABC, family="encoder"):
    """Turns an image (B, in_channels, H, W) into ``len(channels)`` feature maps, finest first.

    Map i has the shape (B, channels[i], H / strides[i], W / strides[i]) for every H and W that are
    multiples of ``multiple`` and at least twice as large. The strides grow, each divides the next.

    A member takes at least the options ``in_channels``, ``depth`` (number of maps; the coarser ones
    are left out) and ``pretrained``, and sets:

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map, in pixels of the input.
        in_channels: Channels of the image; build() sets it.
        multiple: Height and width of the input must be multiples of it; None: of the last stride.
        norm: The normalisation of a neck that is not given one.
        padding: "valid" for an unpadded network, whose maps are smaller than H / stride.
        fixed_size: The only input size (H, W) that a backbone takes, None for any.
        pretrained_from: Where the weights came from, None for random ones.
        input_stats: Mean and standard deviation, per channel on a scale of 0 to 1, of the inputs
            that the pretrained weights expect; None without such weights.
        query_channels: Channels of the queries that go through its last blocks, for the head
            ``queries``; 0: none do.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_channels: int = 3
    multiple: int | None = None
    norm: Norm = "batch"
    padding: Padding = "same"
    fixed_size: tuple[int, int] | None = None
    pretrained_from: str | None = None
    input_stats: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    query_channels: int = 0
    _frozen: tuple[nn.Module, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels[i], H / strides[i], W / strides[i])], finest first."""

    def extract(self, x: Tensor) -> list[Tensor]:
        """What :meth:`backbone_parameters` compute for an image; :meth:`complete` does the rest."""
        found: list[Tensor] = self(x)
        return found

    def complete(self, features: list[Tensor]) -> list[Tensor]:
        """The maps of :meth:`forward`, from what :meth:`extract` gives."""
        return features

    def find_masks(
        self, x: Tensor, queries: Tensor, predict: Callable[[list[Tensor], Tensor], Masks]
    ) -> list[Masks]:
        """What queries have found before and after each block that they go through.

        Args:
            x: The image (B, C, H, W), padded.
            queries: (Q, query_channels).
            predict: Takes the maps of :meth:`forward` and queries (B, Q, query_channels).
        """
        raise NotImplementedError(f"encoder '{self.name}' carries no queries")

    def set_progress(self, share: float) -> None:
        """Take note of the share of the training that is done, 0 to 1, before each step."""

    @classmethod
    def build(
        cls,
        name: str,
        /,
        *,
        freeze: Freeze = "none",
        adapter: Adapter = "none",
        adapter_targets: Targets = "attention",
        adapter_rank: Annotated[int, Field(ge=1)] = 8,
        adapter_alpha: Annotated[float, Field(gt=0)] = 16.0,
        **options: Any,
    ) -> Encoder:
        """Build an encoder by name; every timm model name is one.

        Args:
            name: Name of a member or of a timm model.
            freeze: none, all, or the number of stages, finest first, that are not trained.
            adapter: "lora" freezes all that may be pretrained and trains low-rank parts of the
                linear layers of a transformer instead (Hu et al. 2022). They are merged into the
                weights when the network predicts or is exported.
            adapter_targets: The layers with such parts: those of the attention, the MLPs, or both.
            adapter_rank: Rank of the parts.
            adapter_alpha: Scale of the parts, which is divided by the rank.
            options: Those of the constructor.

        Raises:
            SegkitError: The name or an option is unknown or wrong, it cannot be built, or the maps
                of an encoder from outside segkit are not those that it declares.
        """
        shared: dict[str, Any] = {
            "freeze": freeze,
            "adapter": adapter,
            "adapter_targets": adapter_targets,
            "adapter_rank": adapter_rank,
            "adapter_alpha": adapter_alpha,
        }
        member, options = cls.bind(name, {**options, **shared})
        shared = {key: options.pop(key) for key in shared}
        encoder = member(**options)
        encoder.in_channels = options.get("in_channels", encoder.in_channels)
        if is_foreign(encoder):
            check_encoder(encoder)
        if shared["adapter"] == "lora":
            if shared["freeze"] not in ("none", "all", 0):
                raise SegkitError(
                    f"encoder.freeze is {shared['freeze']}, but encoder.adapter=lora freezes all"
                    " stages: leave one of them out."
                )
            shared["freeze"] = "all"
        if shared["freeze"] not in ("none", 0):
            encoder.freeze(shared["freeze"])
        encoder._adapt(shared)
        return encoder

    def _adapt(self, options: Mapping[str, Any]) -> None:
        """Add the adapters that options of :meth:`build` ask for."""
        if options.get("adapter", "none") == "lora":
            keys = ("adapter_targets", "adapter_rank", "adapter_alpha")
            defaults = inspect.signature(type(self).build).parameters
            add_adapters(self, *(options.get(key, defaults[key].default) for key in keys))

    @classmethod
    def rebuild(cls, name: str, layout: Mapping[str, Any], /, **options: Any) -> Encoder:
        """Build a trained encoder with random weights: nothing is run, downloaded or frozen.

        Args:
            name: As for :meth:`build`.
            layout: What :meth:`layout` gave; empty if it is not known, then it is measured.
            options: As for :meth:`build`.

        Raises:
            SegkitError: As :meth:`build`, or the layout is not that of the encoder.
        """
        member, options = cls.bind(name, options)
        options.pop("freeze", None)
        adapting = {key: options.pop(key) for key in list(options) if key.startswith("adapter")}
        if "pretrained" in inspect.signature(member).parameters:
            options["pretrained"] = False
        encoder = member.from_layout(layout, options)
        encoder.in_channels = options.get("in_channels", encoder.in_channels)
        for key in layout.keys() & {"channels", "strides", "multiple", "fixed_size"}:
            stored = tuple(layout[key]) if isinstance(layout[key], list) else layout[key]
            if stored != (found := getattr(encoder, key)):
                raise SegkitError(
                    f"the layout of the encoder '{name}' has {key}={stored}, but with its options"
                    f" it has {key}={found}. Use the file as segkit wrote it."
                )
        encoder._adapt(adapting)
        return encoder

    def layout(self) -> dict[str, Any]:
        """Plain data from which :meth:`rebuild` builds the encoder without running it."""
        return {
            "channels": self.channels,
            "strides": self.strides,
            "multiple": self.multiple,
            "fixed_size": self.fixed_size,
        }

    @classmethod
    def from_layout(cls, layout: Mapping[str, Any], options: dict[str, Any]) -> Encoder:
        """Build the encoder; a member that measures itself takes the results from the layout."""
        return cls(**options)

    @classmethod
    def resolve(cls, name: str, options: dict[str, Any]) -> tuple[type[Any], dict[str, Any]]:
        """The class behind a name: a member, or the timm encoder for the name of a timm model.

        Raises:
            SegkitError: The name is unknown, or the option ``model`` names another timm model.
        """
        import timm

        members = cls.members()
        if name in members or not timm.is_model(str(name)):
            return super().resolve(name, options)
        if options.get("model", name) != name:
            raise SegkitError(
                f"encoder '{name}' is itself a timm model: leave out the option model="
                f"{options['model']}, or use the encoder 'timm' with it."
            )
        return members["timm"], {**options, "model": name}

    @classmethod
    def known_names(cls) -> list[str]:
        """The members and the models of timm."""
        import timm

        return list({**cls.members(), **dict.fromkeys(timm.list_models())})

    def freeze(self, stages: Freeze) -> None:
        """Freeze the first stages: no gradient, batch norm and dropout in eval mode.

        They stay so through every later ``train()`` and ``eval()``. A stage is measured: it has all
        parameters that the first maps depend on, but only those of :meth:`backbone_parameters`.

        Args:
            stages: "none", "all", or the number of maps, finest first, whose parameters are frozen.
        """
        if isinstance(stages, int) and not 0 <= stages <= len(self.channels):
            raise SegkitError(
                f"encoder.freeze is {stages}, but the encoder '{self.name}' has"
                f" {len(self.channels)} stages: use none, all or 0 to {len(self.channels)}."
            )
        self.requires_grad_(True)
        self._frozen = ()
        if stages not in ("none", 0):
            x = torch.zeros(1, self.in_channels, *self.example_size)
            frozen = self.backbone_parameters()
            if isinstance(stages, int):
                frozen = find_parameters(self, x, frozen, stages)
            for parameter in frozen:
                parameter.requires_grad_(False)
            self._frozen = tuple(find_frozen_modules(self, x))
        self.train(self.training)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that :meth:`freeze` may freeze: all that may be pretrained."""
        return list(self.parameters())

    def list_frozen(self) -> list[str]:
        """Names of the weights, buffers included, that a training leaves as they are."""
        frozen = {id(p) for p in self.parameters() if not p.requires_grad}
        frozen |= {id(b) for module in self._frozen for b in module.buffers(recurse=False)}
        stored = self.state_dict(keep_vars=True)
        return [name for name, tensor in stored.items() if id(tensor) in frozen]

    @classmethod
    def find_pretrained(cls, options: Mapping[str, Any]) -> Path | None:
        """The file on this machine with the pretrained weights that these options choose.

        None if there is none, or if anything but the options is needed to find it.
        """
        return None

    def layers(self) -> list[list[nn.Parameter]]:
        """The trained parameters that may be pretrained, by depth, those next to the image first.

        A layer is a stage: what a map depends on, but not those before it.
        """
        trained = [p for p in self.backbone_parameters() if p.requires_grad]
        x = torch.zeros(1, self.in_channels, *self.example_size)
        x = x.to(next(self.parameters()).device)
        found: list[list[nn.Parameter]] = []
        for stage in range(1, len(self.channels) + 1) if trained else ():
            before = {id(p) for layer in found for p in layer}
            upto = find_parameters(self, x, trained, stage)
            found.append([p for p in upto if id(p) not in before])
        return found

    def train(self, mode: bool = True) -> Encoder:
        """Set the training mode of all modules but the frozen ones, which stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    @property
    def example_size(self) -> tuple[int, int]:
        """The smallest input size (H, W) that the encoder takes."""
        if self.padding == "valid":
            side = valid_input(1, len(self.strides))
            return side, side
        side = 2 * (self.multiple or self.strides[-1])
        return self.fixed_size or (side, side)
