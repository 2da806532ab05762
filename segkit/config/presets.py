"""The YAML files of conf/, completed with the defaults that the code declares.

A preset holds a name and what differs from the defaults. Hydra reads it through :class:`Presets`,
so that every option can be overridden, interpolated and shown although no YAML repeats it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from segkit.config.declarations import (
    COMMANDS,
    FAMILIES,
    SECTIONS,
    Options,
    list_plugin_members,
    read_command_options,
    read_member_options,
    read_section_options,
)
from segkit.config.foreign import require_harmless
from segkit.core.yaml_files import read_yaml_text

FOREIGN = "segkit-config-dir"
"""The provider, in Hydra's search path, of the folder that the user names with --config-dir."""
MISSING = "???"
"""How a YAML says that a value must be given."""
LOADER = "/loader@_here_"
"""The entry by which data sets of version 0.1.0 took the options of class Data."""


class Presets(FileConfigSource):
    """A folder of configs whose files are completed when they are read.

    Those of the folder that the user names with --config-dir may be a stranger's: they decide
    neither what Hydra imports and runs nor which files are written.
    """

    @staticmethod
    def scheme() -> str:
        """How Hydra's search path names such folders."""
        return "segkit"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file and complete it."""
        is_foreign = self.provider == FOREIGN
        if is_foreign:
            file = Path(self.path, self._normalize_file_name(config_path))
            read_yaml_text(file)  # whether it is safe to parse
        result = super().load_config(config_path)
        if is_foreign:
            held = OmegaConf.to_container(result.config)
            require_harmless(file, config_path, result.header.get("package"), held)
        if OmegaConf.is_dict(result.config):
            path = config_path.removesuffix(".yaml")
            content: Any = OmegaConf.to_container(result.config)
            complete(path, content, is_global=result.header.get("package") == "_global_")
            result.config = OmegaConf.create(content)
        return result


class PluginMembers(ConfigSource):
    """A preset for each member of a plugin, which needs no file then."""

    @staticmethod
    def scheme() -> str:
        """How Hydra's search path names this source."""
        return "segkit-plugins"

    def load_config(self, config_path: str) -> ConfigResult:
        """The name of the member and the defaults of its options."""
        path = config_path.removesuffix(".yaml")
        content: dict[str, Any] = {"name": path.rpartition("/")[2]}
        complete(path, content)
        for key, option in read_member_options(*path.split("/")).items():
            if option.required:
                content[key] = MISSING
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), header)

    def available(self) -> bool:
        """Always: there may be no members."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether it is a family with members."""
        return any(family == config_path for family, _ in list_plugin_members())

    def is_config(self, config_path: str) -> bool:
        """Whether it is a member."""
        family, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return (family, name) in list_plugin_members()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The members of a family."""
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(name for family, name in list_plugin_members() if family == config_path)


def load_preset(folder: Path, group: str, choice: str) -> dict[str, Any]:
    """The completed content of a preset that starts from no other preset."""
    source = Presets("segkit", f"segkit://{folder}")
    content: Any = OmegaConf.to_container(source.load_config(f"{group}/{choice}").config)
    return content


def complete(path: str, content: dict[str, Any], is_global: bool = False) -> None:
    """Add the defaults to a config that starts from no other config.

    Args:
        path: Group and name of the config, such as "neck/unet".
        content: What its file holds; changed in place.
        is_global: Whether its keys are those of the whole config.
    """
    group, _, name = path.rpartition("/")
    if is_global:
        for family in FAMILIES:
            part = content.get(family)
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                _add(part, read_member_options(family, part["name"]))
    elif path in COMMANDS:
        _add(content, read_command_options(path))
    elif path == "loader":
        _add(content, read_section_options("data"))
    elif not any(_is_base(entry) for entry in content.get("defaults", [])):
        if group in FAMILIES:
            given = content.get("name", MISSING)
            _add(content, read_member_options(group, name if given == MISSING else given))
        if group in SECTIONS:
            _add(content, read_section_options(group))
        if group == "loss":  # the terms of a sum are losses too
            for key, term in content.get("terms", {}).items():
                _add(term, read_member_options("loss", term.get("name", key)))


def _is_base(entry: Any) -> bool:
    """Whether an entry of a defaults list names another config to start from."""
    text = next(iter(entry)) if isinstance(entry, dict) else str(entry)
    return not text.startswith("override ") and text not in ("_self_", LOADER)


def _add(content: dict[str, Any], options: Options) -> None:
    for key, option in options.items():
        if not option.required:
            content.setdefault(key, option.default)
