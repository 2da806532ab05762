"""Runs of tiny networks: exporting one takes a second or two."""

from __future__ import annotations

import pytest
from conftest import QUICK, train_quick
from filelock import FileLock

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
def files(tmp_path_factory, request):
    """The checkpoint of a tiny U-Net of three classes on colour images, and its exported files.

    By their endings. Processes that share the tests share them too: exporting takes long.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "exported"
    found = {ending: folder / f"{kind}/model{ending}" for kind, ending in ENDINGS.items()}
    found[".ckpt"] = folder / "run/checkpoints/best.ckpt"
    with FileLock(f"{folder}.lock"):
        if not all(file.exists() for file in found.values()):
            train_quick(folder / "run", *TINY, "head=multiclass", "data.channels=3")
            for kind, ending in ENDINGS.items():
                (folder / kind).mkdir()
                options = [f"checkpoint='{found['.ckpt']}'", f"output='{found[ending]}'"]
                export(compose(options, "export"))
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
