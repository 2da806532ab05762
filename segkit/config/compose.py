"""Where the configs are, and how they are composed: for the commands and for notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.config.overrides import composition_errors, explain, search_path
from segkit.core import plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERSION_BASE = "1.3"


def conf_dir() -> Path:
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
    with session():
        try:
            config = hydra.compose(command, overrides=[*search_path(config_dir), *given])
        except composition_errors() as error:
            raise explain(error, command, given, config_dir) from error
    plugins.require_named(plugins.listed(config.get("plugins")), given)
    return config


@contextmanager
def session() -> Iterator[None]:
    """Hydra set up for composing, beside an app that may be running (a notebook's, a test's)."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    prepare()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def prepare() -> None:
    """Tell Hydra where the plugins' configs are and how a run's folder is found."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from omegaconf import OmegaConf

    found = Plugins.instance()
    if _SEARCH_PATH not in {cls.__name__ for cls in found.discover(SearchPathPlugin)}:
        found.register(_search_path_plugin())
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)


def _run_dir(name: str, time: str, resume: str | None) -> str:
    """A new folder below runs/, or the one that is resumed."""
    return os.fspath(resume) if resume else f"runs/{name}/{time}"


_SEARCH_PATH = "PluginConfigs"


def _search_path_plugin() -> type:
    """Made when Hydra is there: importing segkit.config.compose must cost nothing."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class PluginConfigs(SearchPathPlugin):
        """Adds the conf/ folder of every installed plugin."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for name, folder in plugins.conf_dirs():
                search_path.append(f"segkit-plugin-{name}", f"file://{folder}")

    return PluginConfigs
