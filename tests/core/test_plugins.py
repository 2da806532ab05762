"""Third-party code: entry points, modules and files that the user names."""

from __future__ import annotations

import importlib
import pickle
import shutil
import subprocess
import sys

import pytest

from segkit.core import plugins
from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable

MEMBER = """
from segkit.core.plugins import FAMILY
class Mine(FAMILY, name="{name}"):
    pass
"""


@pytest.fixture
def family(monkeypatch):
    """A family of this test, which the plugins find in segkit.core.plugins."""

    class Thing(Registrable, family="thing"):
        pass

    monkeypatch.setattr(plugins, "FAMILY", Thing, raising=False)
    return Thing


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs packages that have an entry point of a name and a value."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins.load_installed.cache_clear()

    def install(name: str, value: str) -> None:
        facts = tmp_path / "site" / f"{value}-1.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {value}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {value}\n")
        importlib.invalidate_caches()

    yield install
    plugins.load_installed.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package segkit_toy with a conf folder, on the path."""
    folder = tmp_path / "segkit_toy"
    (folder / "conf" / "encoder").mkdir(parents=True)
    (folder / "__init__.py").write_text(MEMBER.format(name="toy"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    sys.modules.pop("segkit_toy", None)


def test_a_plugin_is_imported_when_a_name_is_looked_up(family, installed, package):
    installed("toy", "segkit_toy")
    assert "segkit_toy" not in sys.modules
    assert family.names() == ["toy"]
    assert type(family.build("toy")).__module__ == "segkit_toy"


def test_the_configs_of_a_plugin_are_found_without_importing_it(installed, package):
    installed("toy", "segkit_toy")
    installed("gone", "segkit_is_gone")
    assert plugins.find_conf_dirs() == [package / "conf"]
    assert "segkit_toy" not in sys.modules


def test_a_plugin_in_an_archive_is_found(family, installed, package, tmp_path, monkeypatch):
    installed("toy", "segkit_toy")
    shutil.make_archive(str(tmp_path / "packages"), "zip", tmp_path / "site")
    shutil.rmtree(tmp_path / "site")
    assert family.names() == []
    plugins.load_installed.cache_clear()
    monkeypatch.syspath_prepend(tmp_path / "packages.zip")
    assert family.names() == ["toy"]


def test_a_plugin_that_cannot_be_imported_is_named(family, installed, package):
    (package / "__init__.py").write_text("1 / 0")
    installed("toy", "segkit_toy")
    with pytest.raises(SegkitError, match=r"the plugin 'toy' \(segkit_toy\) .*ZeroDivisionError"):
        family.names()


def test_files_are_loaded_once_and_two_of_one_stem_are_two_modules(family, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MEMBER.format(name=f"mine_{folder}"))
    plugins.load_named([str(tmp_path / folder / "mine.py") for folder in ("a", "b", "a")])
    assert family.names() == ["mine_a", "mine_b"]
    one, two = (type(family.build(name)) for name in family.names())
    assert one.__module__ != two.__module__


def test_two_files_that_define_one_name_are_an_error_with_both_places(family, tmp_path):
    paths = [tmp_path / name for name in ("first.py", "second.py")]
    for path in paths:
        path.write_text(MEMBER.format(name="mine"))
    with pytest.raises(SegkitError, match=r"first\.py:3.* and .*second\.py:3"):
        plugins.load_named([str(path) for path in paths])


def test_a_class_of_a_file_can_be_pickled_to_another_process(family, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class Value:\n    def __init__(self):\n        self.number = 7\n")
    plugins.load_named([str(path)])
    name = next(n for n, m in sys.modules.items() if getattr(m, "__file__", "") == str(path))
    data = pickle.dumps(sys.modules[name].Value())
    code = (
        "import pickle, sys; from segkit.core import plugins;"
        f"plugins.load_named([{str(path)!r}]); print(pickle.loads({data!r}).number)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


def test_an_installed_module_by_its_name(family, package):
    plugins.load_named(["segkit_toy"])
    assert family.names() == ["toy"]
    with pytest.raises(SegkitError, match=r"plugins: there is no file .*file\.py"):
        plugins.load_named(["no/such/file.py"])
    with pytest.raises(SegkitError, match=r"'no_such_module' cannot be imported .*ends in \.py"):
        plugins.load_named(["no_such_module"])


def test_a_file_that_fails_is_named_with_its_line_and_can_be_mended(family, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nraise ValueError('why')\n")
    with pytest.raises(SegkitError, match=r"ValueError\('why'\) at .*mine\.py:2"):
        plugins.load_named([str(path)])
    path.write_text(MEMBER.format(name="mended"))
    plugins.load_named([str(path)])
    assert family.names() == ["mended"]
