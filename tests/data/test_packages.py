"""Data sets of other packages: what happens without the package."""

import sys

import pytest

from segkit.core.errors import SegkitError
from segkit.data.sources.base import DataSource


@pytest.mark.parametrize(
    ("name", "package", "options"),
    [
        ("torchgeo", "torchgeo.datasets", {"dataset": "LandCoverAI100", "root": "."}),
        ("huggingface", "datasets", {"path": "."}),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, package, options):
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SegkitError) as caught:
        DataSource.build(name, mode="binary", **options)
    assert f"pip install 'segkit-torch[{name}]'" in str(caught.value)
