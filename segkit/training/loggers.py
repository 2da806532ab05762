"""Where numbers go besides metrics.csv."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger as LightningLogger

from segkit.config.schema import Logger
from segkit.core.errors import SegkitError


def make_logger(config: Logger, folder: Path, name: str) -> LightningLogger | bool:
    """The Lightning logger of a run, False for none; metrics.csv is written by a callback.

    Raises:
        SegkitError: The package of the logger is not installed.
    """
    if config.name == "csv":
        return False
    if find_spec(config.name) is None:
        raise SegkitError(
            f"logger={config.name} needs the package {config.name}:"
            f" pip install '.[{config.name}]' in the checkout of segkit."
        )
    if config.name == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="tensorboard", version="")
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        name=f"{name}/{folder.name}",
        project=config.project,
        save_dir=folder,
        offline=config.offline,
    )
