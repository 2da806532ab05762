"""What the commands that use a trained model take, and how their configs are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from segkit.config.schema import say
from segkit.core import plugins
from segkit.core.errors import all_at_once
from segkit.inference.loading import load
from segkit.inference.objects.instances import WAIST
from segkit.inference.predictor import Predictor
from segkit.inference.tiles.blending import TTA
from segkit.inference.tiles.tiling import OVERLAP

Choice = Literal["training", "components", "watershed", "border_core", "distance"]
"""A :data:`segkit.core.labels.Decoder`, or that of the training."""
Side = Annotated[int, Field(ge=1)]
Files = Annotated[
    list[Path],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]
"""One file or several."""


class Inference(BaseModel):
    """What evaluate and predict both take; the keys are described in their files in conf/."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: Files
    device: str = "auto"
    instances: Choice | None = "training"
    min_size: Annotated[int, Field(ge=0)] | None = None
    waist: Annotated[float, Field(gt=0, le=1)] = WAIST
    fill_holes: bool = False
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    tta: TTA = "none"
    tile: Side | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = OVERLAP
    context: Annotated[int, Field(ge=0)] | None = None
    batch_size: Side | None = None
    plugins: list[str] | str = []

    def predictor(self) -> Predictor:
        """The predictor of the checkpoints; what is not said about objects is as in the training.

        Raises:
            SegkitError: A checkpoint or an option cannot be used.
        """
        own = ("instances", "min_size", "waist", "fill_holes", "threshold", "tta")
        tiling = ("tile", "overlap", "context", "batch_size")
        options = {key: getattr(self, key) for key in (*own, *tiling)}
        return load(self.checkpoint, self.device, **options)


Settings = TypeVar("Settings", bound=BaseModel)


def checked(schema: type[Settings], config: DictConfig) -> Settings:
    """The config of a command as typed data; its plugins are loaded.

    Raises:
        SegkitError: Values are missing or wrong; all of them are named.
    """
    plugins.load_named(plugins.listed(config.get("plugins")))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise all_at_once(
            "values that must be given are missing:",
            [f"{key} is missing: give {key}=VALUE" for key in missing],
        )
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [say(detail, schema) for detail in error.errors()]
        raise all_at_once("the config cannot be used:", problems) from error
