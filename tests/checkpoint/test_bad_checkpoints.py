"""Checkpoints that cannot be used: one message with file and remedy; their code is not run."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import train_quick
from omegaconf import OmegaConf
from safetensors.torch import save_file

import segkit
from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import FORMAT
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.evaluate.command import evaluate
from segkit.images.writing import write_image

SMALL = ("encoder=unet", "encoder.width=4", "encoder.depth=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose checkpoint is so small that it can be damaged everywhere."""
    return train_quick(tmp_path_factory.mktemp("small"), *SMALL)


@pytest.fixture
def stored(run):
    """What its checkpoint holds, to be changed."""
    return torch.load(run.checkpoint, weights_only=True)


def message(path: Path) -> str:
    """What a user reads who loads a file: it names the file, and gives none of torch's advice."""
    with pytest.raises(SegkitError) as error:
        segkit.load(path, device="cpu")
    text = str(error.value)
    assert str(path) in text
    assert "weights_only" not in text
    assert "Traceback" not in text
    return text


def test_a_file_cut_off_anywhere(run, tmp_path):
    data = run.checkpoint.read_bytes()
    path = tmp_path / "cut.ckpt"
    ends = [*range(len(data) - 25, len(data)), *range(1, len(data), len(data) // 40)]
    for length in ends:
        path.write_bytes(data[:length])
        assert f"its end is missing: it was cut off after {length} bytes" in message(path)
    path.write_bytes(b"")
    assert "it is empty" in message(path)


def test_a_damaged_byte_anywhere_is_seen_or_harmless(run, stored, tmp_path):
    """Between the parts of the archive there is padding; every other byte counts."""
    data = run.checkpoint.read_bytes()
    path, harmless = tmp_path / "damaged.ckpt", 0
    places = range(7, len(data), len(data) // 150)
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            model, card = checkpoint.read(path)
        except SegkitError:
            continue
        harmless += 1
        assert card == checkpoint.read(run.checkpoint)[1]
        for name, value in model.state_dict().items():
            assert torch.equal(value, stored["state_dict"][f"model.{name}"]), (place, name)
    assert harmless < len(places) / 2


def test_an_archive_that_claims_more_disks(run, tmp_path):
    """Even the question whether it is an archive fails there."""
    path, data = tmp_path / "disks.ckpt", bytearray(run.checkpoint.read_bytes())
    data[data.rindex(b"PK\x06\x07") + 16] = 9
    path.write_bytes(data)
    assert "span multiple disks" in message(path)


def test_a_part_that_is_marked_as_a_folder(run, tmp_path):
    """torch reads nothing of it, and gives what was in memory."""
    path = tmp_path / "folder.ckpt"
    data = bytearray(run.checkpoint.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/0"))  # in the central directory
    data[entry + 38] = 0x10
    path.write_bytes(data)
    assert "a part is marked as a folder" in message(path)


class Harmful:
    """Unpickling one makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of the old archive
@pytest.mark.parametrize("form", ["archive", "old archive", "pickle"])
def test_code_in_a_checkpoint_is_not_run(stored, tmp_path, form):
    mark, path = tmp_path / "run", tmp_path / "harmful.ckpt"
    harmful = {**stored, "extra": Harmful(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(harmful["extra"]))
    else:
        torch.save(harmful, path, _use_new_zipfile_serialization=form == "archive")
    text = message(path)
    if form == "archive":
        assert f"holds objects that only code could make ({os.mkdir.__module__}.mkdir)" in text
        assert "nothing of it was run" in text
    assert "Use the best.ckpt or last.ckpt of a run of segkit" in text
    assert not mark.exists()
    if form == "pickle":  # the code would have run elsewhere
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def write_png(path: Path) -> None:
    write_image(path.with_suffix(".png"), np.zeros((9, 9), np.uint8))
    path.with_suffix(".png").rename(path)


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "hello")


def write_script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def write_weights(path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1).state_dict(), path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # that write such a file
@pytest.mark.parametrize(
    ("write", "reason", "remedy"),
    [
        (write_png, "it is no archive of torch.save", "Use the best.ckpt or last.ckpt"),
        (write_archive, "a zip archive, but not one of torch.save", "Use the best.ckpt"),
        (write_script, "it is a TorchScript model", "Use the best.ckpt or last.ckpt"),
        (lambda path: save_file({"a": torch.ones(2)}, path), "it is no archive", "Use the best"),
        (Path.mkdir, "is a folder", "Give the best.ckpt"),
        (lambda path: None, "there is no file", "Give the best.ckpt"),
        (write_weights, "is no checkpoint of segkit", "encoder.pretrained=PATH"),
        (lambda path: torch.save([1, 2], path), "is no checkpoint", "encoder.pretrained=PATH"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, write, reason, remedy):
    path = tmp_path / "file.ckpt"
    write(path)
    text = message(path)
    assert reason in text
    assert remedy in text


def test_a_run_folder_leads_to_its_checkpoint(run):
    assert f"use {run.checkpoint}" in message(run.folder)


def test_a_checkpoint_of_a_newer_version(stored, tmp_path):
    stored["segkit"] |= {"format": FORMAT + 1, "num_classes": "of another form"}
    torch.save(stored, tmp_path / "newer.ckpt")
    assert f"has the format {FORMAT + 1} of a newer segkit" in message(tmp_path / "newer.ckpt")
    assert "Upgrade segkit" in message(tmp_path / "newer.ckpt")


def test_plugins_that_are_not_named_again_come_first(run, stored, tmp_path):
    """Parts of the network, the data set of an evaluation, and the config of a resumed run."""
    path, first = tmp_path / "plugin.ckpt", r"^The training named plugins=\[mine\.py\]: name them"
    card = stored["segkit"]
    card["config"] = {**card["config"], "plugins": ["mine.py"], "metrics": ["mine"]}
    torch.save(stored, path)
    with pytest.raises(SegkitError, match=rf"{first} again.* metric 'mine' is not known"):
        evaluate(compose([f"checkpoint='{path}'", "device=cpu"], "evaluate"))
    card["encoder"] = {"name": "mine"}
    torch.save(stored, path)
    with pytest.raises(SegkitError, match=rf"{first} again.* encoder 'mine' is not known"):
        checkpoint.read(path)
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.loss, config.plugins = {"name": "mine"}, ["mine.py"]
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(SegkitError, match=rf"(?s){first} again.* loss 'mine' is not known"):
        resume(folder)


GONE = object()
NORM = {"dtype": "uint8", "low": 0.0, "high": 255.0, "mean": (0.5,), "std": (0.2,)}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_classes", GONE, "num_classes is missing"),
        ("normalization", GONE, "normalization is missing"),
        ("head", GONE, "head is missing"),
        ("format", GONE, "is not as segkit writes it"),
        ("format", "1", "is not as segkit writes it"),
        ("num_classes", "two", "num_classes='two'"),
        ("num_classes", 0, "must be 1 or more"),
        ("in_channels", -1, "must be 1 or more"),
        ("in_channels", 3, "normalization needs a mean and a std for each of in_channels=3"),
        ("img_size", 64, "img_size=64"),
        ("encoder", "unet", "encoder='unet'"),
        ("encoder", {"width": 4}, "encoder.name is missing"),
        ("encoder", {"name": "unett"}, "Did you mean 'unet'?"),
        ("encoder", {"name": "unet", "width": "wide"}, "option 'width' is 'wide'"),
        ("layout", [1, 2], "layout=[1, 2]"),
        ("layout", {"channels": [4, 9]}, "has channels=(4, 9), but with its options"),
        ("layout", {"strides": "wide"}, "has strides=wide, but with its options it has strides"),
        ("bytes_per_pixel", -1.0, "bytes_per_pixel must be above 0"),
        ("neck", None, "neck=None"),
        ("target", {"name": "foregroud"}, "target 'foregroud' is not known"),
        ("mode", "trinary", "mode='trinary'"),
        ("class_names", 3, "class_names=3"),
        ("class_names", ("one",), "class_names has 1 entries for num_classes=2"),
        ("class_colors", (1, 2), "class_colors.0=1"),
        ("mask_values", ("a", "b"), "mask_values.0='a'"),
        ("mask_values", (0,), "mask_values has 1 entries for num_classes=2"),
        ("config", [1], "config=[1]"),
        ("normalization", {"dtype": "uint8"}, "normalization.mean is missing"),
        ("normalization", NORM | {"std": (0.0,)}, "std above 0"),
        ("normalization", NORM | {"low": 300.0}, "low must be below high"),
        ("normalization", NORM | {"low": (0.0, 1.0)}, "have one for each channel"),
        ("normalization", NORM | {"dtype": "uint7"}, "dtype='uint7' is no image type"),
    ],
)
def test_a_card_that_was_edited_by_hand(stored, tmp_path, field, value, said):
    if value is GONE:
        del stored["segkit"][field]
    else:
        stored["segkit"][field] = value
    torch.save(stored, tmp_path / "edited.ckpt")
    assert said in message(tmp_path / "edited.ckpt")


def test_all_problems_of_a_card_are_listed_and_lists_are_refused(stored, tmp_path):
    path = tmp_path / "edited.ckpt"
    wrong = {"neck": None, "img_size": "large", "config": 3}
    torch.save({**stored, "segkit": stored["segkit"] | wrong}, path)
    text = message(path)
    assert all(key in text for key in ("neck=None", "img_size='large'", "config=3"))
    assert "Use the checkpoint as its training wrote it." in text
    for key in ("segkit", "state_dict"):
        torch.save({**stored, key: ["a list"]}, path)
        assert "is not as segkit writes it" in message(path)


def test_weights_that_do_not_fit_are_counted_and_named(stored, tmp_path):
    path, good = tmp_path / "a.ckpt", stored["state_dict"]
    first = next(name for name in good if name.endswith("weight"))
    bare = first.removeprefix("model.")
    without = {name: value for name, value in good.items() if name != first}
    for weights, expected in (
        (without, f"1 tensors are missing, first {bare}"),
        ({}, f"{len(good)} tensors are missing"),
        (good | {"model.extra": torch.ones(1)}, "1 tensors are too many, first extra"),
        (good | {first: torch.ones(7)}, f"have another shape, first {bare}: (7,) instead of"),
        (good | {first: 3}, f"1 are no tensors, first {bare}"),
    ):
        torch.save({**stored, "state_dict": weights}, path)
        text = message(path)
        assert expected in text
        assert "Use the checkpoint as its training wrote it." in text


def test_other_versions_are_named_where_weights_do_not_fit(stored, tmp_path):
    stored["segkit"]["versions"]["timm"] = "0.4.12"
    torch.save({**stored, "state_dict": {}}, tmp_path / "old.ckpt")
    text = message(tmp_path / "old.ckpt")
    assert "It was written with timm 0.4.12 (here " in text
    assert "torch" not in text.partition("(here ")[0]  # it is the same


def resume(folder: Path) -> None:
    train_quick(folder, *SMALL, f"resume='{folder}'", "trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        ("cut", SegkitError, r"last\.ckpt.*its end is missing"),
        ("best", SegkitError, r"last\.ckpt.*has no state of the optimizer"),
        ("weights", SegkitError, r"last\.ckpt does not fit the network of this run"),
        # found when the weights are loaded and the optimizer is not
        ("optimizer", KeyError, "param_groups"),
    ],
)
def test_a_bad_last_checkpoint_cannot_be_resumed_and_stays(run, tmp_path, damage, error, said):
    again = tmp_path / "again"
    shutil.copytree(run.folder, again)
    last = again / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    elif damage == "best":
        last.write_bytes(run.checkpoint.read_bytes())
    elif damage == "weights":
        first = next(name for name in stored["state_dict"] if name.endswith("weight"))
        stored["state_dict"][first] = torch.ones(3)
        torch.save(stored, last)
    else:
        torch.save(stored | {"optimizer_states": [{"state": {}}]}, last)
    before = last.read_bytes()
    with pytest.raises(error, match=said):
        resume(again)
    assert last.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["predict", pytest.param("evaluate", marks=pytest.mark.nightly)]
)
def test_the_commands_say_it_in_one_message_and_write_nothing(stored, tmp_path, command):
    mark = tmp_path / "run"
    torch.save({**stored, "extra": Harmful(mark)}, tmp_path / "harmful.ckpt")
    write_image(tmp_path / "a.png", np.zeros((16, 16), np.uint8))
    given = ["input=a.png"] if command == "predict" else []
    done = subprocess.run(
        [sys.executable, "-m", f"segkit.{command}", "checkpoint=harmful.ckpt", *given, "output=o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "checkpoint harmful.ckpt cannot be read as data" in done.stderr
    assert "Traceback" not in done.stderr
    assert not mark.exists()
    assert not [path for path in tmp_path.glob("o/**/*") if path.is_file()]
