"""The run folder, one for each training. Imports no torch."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from segkit.config.schema import TrainConfig
from segkit.core.errors import SegkitError, Stop
from segkit.core.owners import hold_folder
from segkit.core.sharing import Share


def claim_folder(path: Path) -> Path:
    """Create a folder for one training: the given one, or with _2, _3 ... where it exists.

    Trainings that start in the same second ask for the same one.

    Raises:
        SegkitError: It cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            free = path if number == 1 else path.with_name(f"{path.name}_{number}")
            try:
                free.mkdir()
            except FileExistsError:
                continue
            return free
    except OSError as error:
        raise SegkitError(
            f"cannot create the run folder '{path}': {error.strerror or error}. Choose another"
            " place with hydra.run.dir=FOLDER."
        ) from error
    raise AssertionError("count() has no end")


class ClaimFolder(Callback):
    """Claims the folder of a run or a sweep before Hydra uses it, unless the user has named it."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def __reduce__(self) -> tuple[type[ClaimFolder], tuple[()]]:
        return ClaimFolder, ()  # launchers send it to their jobs, which hold nothing

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of a run that is not resumed."""
        if not config.get("resume"):
            _claim(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of a sweep, and hold it until the last job has ended."""
        _claim(config, "sweep")
        try:
            self._held.enter_context(hold_folder(Path(config.hydra.sweep.dir), "a sweep"))
        except SegkitError as error:
            raise Stop(error) from error

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave the folder."""
        self._held.close()


def _claim(config: DictConfig, kind: str) -> None:
    key, given = f"hydra.{kind}.dir", config.hydra.overrides.hydra
    if any(override.startswith(f"{key}=") for override in given):
        return
    try:
        wanted = Path(config.hydra[kind].dir)
        claimed = Share.join().agree(lambda: str(claim_folder(wanted)))
    except SegkitError as error:
        raise Stop(error) from error
    with open_dict(config):
        config.hydra[kind].dir = claimed
        # the jobs of a sweep compose their configs from the overrides, some in other processes
        given.append(f"{key}='{config.hydra[kind].dir}'")


def choose_folder(settings: TrainConfig, folder: Path | str | None) -> Path:
    """Find the folder of a run: the given one, that of the command, or a new one below runs/."""
    if folder is not None:
        return Path(folder)
    if settings.resume is not None:
        return settings.resume
    if HydraConfig.initialized():
        output = Path(HydraConfig.get().runtime.output_dir)
        return output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output
    new = Path("runs", settings.name, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    return Path(Share.join().agree(lambda: str(claim_folder(new))))
