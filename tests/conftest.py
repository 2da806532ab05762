"""What all tests share: no network, and small runs that several tests look at."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported anywhere
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # they share the cores; set before torch is imported
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")

if threading.current_thread() is threading.main_thread():
    # a shell that starts tests in the background has Ctrl-C ignored, here and in what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

settings.register_profile("segkit", deadline=None)  # the machine may be busy
settings.load_profile("segkit")

ROOT = Path(__file__).parent.parent
QUICK = [
    "experiment=quick",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
    # twenty thousand parameters: reading the checkpoint costs next to nothing
    *("encoder=unet", "encoder.depth=3", "encoder.width=8", "encoder.norm=batch"),
]


@pytest.hookimpl(optionalhook=True, wrapper=True)  # where pytest-xdist is installed
def pytest_xdist_auto_num_workers():
    """What -n auto means: a process for each core, eight at most, as each holds torch in memory."""
    return min(8, (yield))


def pytest_collection_modifyitems(items):
    """Files with long tests come first in both halves: pytest-xdist hands these to two processes,
    and at the end none is to work on a long one alone.
    """
    long = list(dict.fromkeys(i.path for i in items if i.get_closest_marker("slow")))
    first, second = ([i for i in items if i.path in set(long[k::2])] for k in (0, 1))
    short = [item for item in items if item.path not in set(long)]
    half = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *short[:half], *second, *short[half:]]


def train_quick(folder: Path, *overrides: str, quick: Sequence[str] = QUICK):
    """A training of seconds into a folder."""
    from segkit.config.compose import compose
    from segkit.training.run import train

    with warnings.catch_warnings():
        # the filters that a training sets must not leak into other tests
        return train(compose([*quick, *overrides]), folder)


@pytest.fixture(scope="session")
def binary_run(tmp_path_factory):
    """A finished binary run."""
    return train_quick(tmp_path_factory.mktemp("binary"))


@pytest.fixture(scope="session")
def multiclass_run(tmp_path_factory):
    """A finished run of three classes on colour images."""
    return train_quick(
        tmp_path_factory.mktemp("multiclass"), "head=multiclass", "data.channels=3", "neck=fpn"
    )


@pytest.fixture(scope="session")
def multilabel_run(tmp_path_factory):
    """A finished run with overlapping classes."""
    return train_quick(tmp_path_factory.mktemp("multilabel"), "head=multilabel")


@pytest.fixture(scope="session")
def border_core_run(tmp_path_factory):
    """A finished run that tells cells apart by borders and cores."""
    return train_quick(
        tmp_path_factory.mktemp("border_core"),
        "target=border_core",
        "data.instances=true",
        "monitor=val/seg",
        "metrics=[boundary]",
    )
