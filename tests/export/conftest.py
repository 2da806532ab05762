"""Runs of tiny networks: exporting one takes a second or two."""

from __future__ import annotations

import pytest
from conftest import QUICK, train_quick

from segkit.config.compose import compose
from segkit.export.command import export
from segkit.export.formats import ENDINGS

TINY = ["encoder=unet", "encoder.width=4", "encoder.depth=3", "neck.upsample=deconv"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished binary run of a tiny U-Net."""
    return train_quick(tmp_path_factory.mktemp("tiny"), *TINY)


@pytest.fixture(scope="session")
def tiny_multilabel_run(tmp_path_factory):
    """A finished run of a tiny U-Net with overlapping classes."""
    return train_quick(tmp_path_factory.mktemp("tiny_multilabel"), *TINY, "head=multilabel")


@pytest.fixture(scope="session")
def tiny_multiclass_run(tmp_path_factory):
    """A finished run of a tiny U-Net of three classes on colour images."""
    folder = tmp_path_factory.mktemp("tiny_multiclass")
    return train_quick(folder, *TINY, "head=multiclass", "data.channels=3")


@pytest.fixture(scope="session")
def files(tiny_multiclass_run, tmp_path_factory):
    """The checkpoint of that run, and a file of each format, by their endings."""
    checkpoint = tiny_multiclass_run.checkpoint
    found = {".ckpt": checkpoint}
    for kind, ending in ENDINGS.items():
        output = tmp_path_factory.mktemp(kind) / f"model{ending}"
        options = [f"checkpoint='{checkpoint}'", f"output='{output}'"]
        found[ending] = export(compose(options, "export"))
    return found


@pytest.fixture(scope="session")
def unpadded_run(tmp_path_factory):
    """A finished run of a tiny unpadded U-Net."""
    return train_quick(tmp_path_factory.mktemp("unpadded"), *TINY, "encoder.padding=valid")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A finished run of a network whose file is mostly weights."""
    own = ["encoder=resnet18", "encoder.depth=2"]
    return train_quick(tmp_path_factory.mktemp("small"), *own, quick=QUICK[:3])
