"""Third-party members and configs, found through entry points and loaded on first use.

A package announces itself in its ``pyproject.toml``::

    [project.entry-points."segkit.plugins"]
    mine = "segkit_mine"

The module is imported at the first look-up of a name. A folder ``conf/`` in the package is added to
the search path of the configs, without importing the package.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.core.errors import SegkitError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "segkit.plugins"
_named: set[str] = set()
"""Modules and names of files that the user has named."""


def find_plugins() -> list[EntryPoint]:
    """The entry points of the installed plugins."""
    if not _any_installed():
        return []
    from importlib.metadata import entry_points

    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _any_installed() -> bool:
    """Whether any package may have a plugin.

    Importing ``importlib.metadata`` to find out would double the time of ``--cfg``.
    """
    for place in map(Path, sys.path):
        if place.is_file():  # an archive
            return True
        for pattern in ("*-info/entry_points.txt", "EGG-INFO/entry_points.txt"):
            if any(GROUP.encode() in file.read_bytes() for file in place.glob(pattern)):
                return True
    return False


@cache
def load_installed() -> None:
    """Import all installed plugins, once."""
    for entry in find_plugins():
        try:
            entry.load()
        except SegkitError:
            raise
        except Exception as error:
            raise SegkitError(
                f"the plugin '{entry.name}' ({entry.value}) cannot be imported: {error!r}."
                " Repair it or uninstall it."
            ) from error


def find_package_folders() -> list[Path]:
    """The folders of the packages with plugins, found without importing them."""
    found = []
    for entry in find_plugins():
        spec = importlib.util.find_spec(entry.module.partition(".")[0])
        found += [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    return found


def find_conf_dirs() -> list[Path]:
    """The ``conf/`` folders of the installed plugins."""
    return [folder / "conf" for folder in find_package_folders() if (folder / "conf").is_dir()]


def as_list(names: object) -> list[str]:
    """The plugins of a config as a list, where it may have a single name."""
    if not names:
        return []
    is_listed = isinstance(names, Iterable) and not isinstance(names, str)
    return [str(name) for name in names] if is_listed else [str(names)]  # type: ignore[attr-defined]  # iterable by now


def find_source_files(overrides: Iterable[str]) -> list[Path]:
    """The Python files of installed plugins, and those that the overrides name as plugins.

    Raises:
        SegkitError: A named file does not exist.
    """
    found = [file for folder in find_package_folders() for file in sorted(folder.rglob("*.py"))]
    given = [text.partition("=")[2] for text in overrides if _names_plugins(text)]
    names = [name.strip(" '\"") for value in given for name in value.strip("[]").split(",")]
    return [*found, *(_require_file(name) for name in names if name.endswith(".py"))]


def _require_file(name: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise SegkitError(f"plugins: there is no file {path}.")
    return path


def _names_plugins(override: str) -> bool:
    return override.lstrip("+").startswith("plugins=")


def require_named(names: list[str], overrides: list[str]) -> None:
    """Refuse plugins that only a config names: code must be named on the command line."""
    if names and not any(map(_names_plugins, overrides)):
        wanted = ",".join(names)
        raise SegkitError(
            f"plugins: a config file names {wanted}, but code is imported only if the command line"
            f" names it. If you trust it, add plugins=[{wanted}]."
        )


def load_named(names: list[str]) -> None:
    """Import the modules and Python files that the user named on the command line."""
    for name in names:
        try:
            if name.endswith(".py"):
                _run_file(_require_file(name))
            else:
                importlib.import_module(name)
            _named.add(Path(name).name)
        except SegkitError:
            raise
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise SegkitError(
                    f"plugins: '{name}' needs the module '{error.name}', which is not installed."
                ) from error
            raise SegkitError(
                f"plugins: '{name}' cannot be imported ({error}). Name an installed module, or a"
                " file by its path that ends in .py."
            ) from error
        except SyntaxError as error:
            raise SegkitError(
                f"plugins: '{name}' is no valid Python: {error.msg} at"
                f" {error.filename}:{error.lineno}."
            ) from error
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise SegkitError(
                f"plugins: '{name}' cannot be imported: {error!r} at {line.filename}:{line.lineno}."
            ) from error


def name_missing(names: str | Iterable[object] | None, message: str) -> SegkitError:
    """Make an error that begins with the plugins of the training that are not named now."""
    missing = [name for name in as_list(names) if Path(name).name not in _named]
    if missing:
        message = (
            f"The training named plugins=[{','.join(missing)}]: name them again, a file by its"
            f" path; in Python import them first. {message}"
        )
    return SegkitError(message)


@cache
def _run_file(path: Path) -> None:
    # The hash distinguishes files of the same name. All processes must use the same module name, or
    # workers could not unpickle the classes.
    name = f"segkit_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    loader = SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
