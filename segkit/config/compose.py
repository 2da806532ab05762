"""Where the configs are, and how they are composed: for the commands and for notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from segkit.config.declarations import plugin_files
from segkit.config.overrides import explain_composition
from segkit.core import plugins
from segkit.core.errors import SegkitError, all_at_once

if TYPE_CHECKING:
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf import DictConfig

VERSION_BASE = "1.3"


def find_conf_dir() -> Path:
    """The folder of the configs: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "conf"
    return packed if packed.is_dir() else package.parent / "conf"


def compose(
    overrides: list[str] | None = None,
    command: str = "train",
    config_dir: Path | str | None = None,
) -> DictConfig:
    """The config that ``python -m segkit.<command> <overrides>`` would run with.

    Args:
        overrides: What the command line would say, such as ``["encoder=resnet34", "neck=fpn"]``.
        command: The command whose config it is.
        config_dir: A folder of your own groups, as with ``--config-dir``.

    Raises:
        SegkitError: An override names what is not there; all such overrides are named.
    """
    import hydra

    given = list(overrides or [])
    with session(config_dir, given):
        try:
            config = hydra.compose(command, overrides=given)
        except SegkitError:
            raise
        except Exception as error:  # Hydra has all kinds about odd values
            raise explain_composition(error, command, given) from error
    plugins.require_named(plugins.as_list(config.get("plugins")), given)
    return config


def resolve_values(config: Any) -> dict[str, Any]:
    """A copy of a config as plain values.

    Raises:
        SegkitError: Values are missing, or an interpolation cannot be resolved.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not OmegaConf.is_config(config):
        return deepcopy(dict(config))
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        values: Any = None if missing else OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise SegkitError(f"the config cannot be resolved: {error}") from error
    if missing:
        raise all_at_once(
            "required values are missing:",
            [f"{key} is missing: give {key}=VALUE" for key in missing],
        )
    return dict(values)


@contextmanager
def session(config_dir: Path | str | None = None, overrides: Iterable[str] = ()) -> Iterator[None]:
    """Set up Hydra for composing, next to an app that may be running (a notebook's, a test's)."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    prepare(config_dir, overrides)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base=VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def prepare(config_dir: Path | str | None = None, overrides: Iterable[str] = ()) -> None:
    """Tell Hydra which folders hold configs, and how to find the folder of a run.

    Members in packages and in Python files that the overrides name as plugins need no preset.

    Raises:
        SegkitError: There is no such folder.
    """
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from segkit.config.presets import FOREIGN, PluginMembers, Presets

    folders = [(f"segkit-{n}", folder) for n, folder in enumerate(plugins.find_conf_dirs())]
    if config_dir is not None:
        folders.append((FOREIGN, Path(config_dir).resolve()))
        if not folders[-1][1].is_dir():
            raise SegkitError(f"there is no folder of configs {folders[-1][1]}.")
    if any(text.lstrip("+~").startswith("hydra.searchpath") for text in overrides):
        raise SegkitError("hydra.searchpath: name a folder of configs with --config-dir DIR.")
    _own_folders[:] = folders
    plugin_files[:] = plugins.find_source_files(overrides)
    found = Plugins.instance()
    if _SEARCH_PATH not in {cls.__name__ for cls in found.discover()}:
        found.register(Presets)
        found.register(PluginMembers)
        found.register(_make_search_path_plugin())
    OmegaConf.register_new_resolver("run_dir", _choose_run_dir, replace=True)


def _choose_run_dir(name: str, time: str, resume: str | None) -> str:
    """A new folder below runs/, or the one that is resumed.

    Raises:
        SegkitError: The name leads out of runs/.
    """
    if resume:
        return os.fspath(resume)
    path = PurePath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise SegkitError(
            f"name={name}: it names a folder below runs/, without '..'. To write elsewhere, give"
            " hydra.run.dir=FOLDER or hydra.sweep.dir=FOLDER."
        )
    return f"runs/{path}/{time}"


_SEARCH_PATH = "PresetFolders"
_own_folders: list[tuple[str, Path]] = []
"""Folders of configs besides segkit's, with their names in Hydra's search path: those of the
plugins and of the command line."""


def _make_search_path_plugin() -> type[SearchPathPlugin]:
    """A function, because importing this module must not import Hydra."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class PresetFolders(SearchPathPlugin):
        """Reads all folders of configs through :class:`segkit.config.presets.Presets`."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for element in search_path.get_path():
                if element.provider == "main":
                    element.path = f"segkit://{find_conf_dir()}"
            for provider, folder in _own_folders:
                search_path.append(provider, f"segkit://{folder}")
            search_path.append("segkit-plugins", "segkit-plugins://")

    return PresetFolders
