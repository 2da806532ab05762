"""The check command: what it finds, how it says so, and the command that it proposes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hydra.core.override_parser.overrides_parser import OverridesParser
from inspection.composing import make_config
from omegaconf import OmegaConf

from segkit.config.compose import compose, resolve_values
from segkit.config.schema import Data, Part
from segkit.config.settings import DataCheckSettings
from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.base import DataSource
from segkit.inspection.command import check_data
from segkit.inspection.description import describe_split
from segkit.inspection.findings import Findings, find_all
from segkit.inspection.opening import open_data_set, parse_data_settings
from segkit.inspection.proposal import list_overrides
from segkit.inspection.sheet import (
    MOST,
    SIDE,
    draw_sheet,
    draw_tile,
    find_font,
    fit_text,
    make_layer,
    spread,
)

RNG = np.random.default_rng(0)
SIZE = (24, 32)


def noise(channels: int = 1, dtype: str = "uint8", size: tuple[int, int] = SIZE) -> np.ndarray:
    return RNG.integers(10, 240, (*size, channels)).astype(dtype)


def boxes(*values: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask with a box for each value, from left to right."""
    mask = np.zeros(size, np.int32)
    for number, value in enumerate(values):
        mask[2:6, 1 + 4 * number : 4 + 4 * number] = value
    return mask


def put(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        assert cv2.imwrite(str(root / f"images/{name}.png"), image)
    else:
        options = {"planarconfig": "contig"} if image.shape[2] > 1 else {}
        file = root / f"images/{name}.tif"
        tifffile.imwrite(file, image, photometric="minisblack", **options)
    if mask.ndim == 3:
        pages = np.moveaxis(mask, 2, 0).astype(np.uint8)
        tifffile.imwrite(root / f"masks/{name}.tif", pages, photometric="minisblack", metadata=None)
    else:
        assert cv2.imwrite(str(root / f"masks/{name}.png"), mask.astype(np.uint16))


def put_some(root: Path, mask: np.ndarray, count: int = 5, **options: Any) -> Path:
    for number in range(count):
        put(root, f"{number:02d}", noise(size=mask.shape[:2], **options), mask)
    return root


def find(root: Path, *overrides: str) -> Findings:
    config = make_config("data_check", root, *overrides)
    return find_all(open_data_set(parse_data_settings(DataCheckSettings, config)))


def run(root: Path | None, *overrides: str) -> Findings:
    return check_data(make_config("data_check", root, *overrides))


# --- findings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "mode", "shares"),
    [
        (boxes(1, 1), "binary", [1 - 24 / 768, 24 / 768]),
        (boxes(255), "binary", [1 - 12 / 768, 12 / 768]),
        (boxes(1, 255), "binary", [1 - 12 / 756, 12 / 756]),
        (boxes(1, 2, 2), "multiclass", [1 - 36 / 768, 12 / 768, 24 / 768]),
    ],
)
def test_the_head_follows_from_the_labels(tmp_path, mask, mode, shares):
    found = find(put_some(tmp_path, mask))
    assert found.mode == mode
    assert [each.share for each in found.classes] == pytest.approx(shares)
    assert found.problems is None


def test_a_rare_third_label_is_seen_although_not_every_mask_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("segkit.inspection.opening.LOOKED_AT", 1)
    put_some(tmp_path, boxes(1))
    put(tmp_path, "03", noise(), boxes(1, 2))
    assert find(tmp_path).mode == "multiclass"
    assert find(put_some(tmp_path / "two", boxes(1, 2)), "head=multiclass").mode == "multiclass"


def test_options_that_fit_two_classes_only_make_the_head_binary(tmp_path):
    put_some(tmp_path, boxes(250))
    found = find(tmp_path, "data.mask_values=nearest")
    assert (found.mode, found.problems) == ("binary", None)


def test_mask_values_belong_to_their_classes(tmp_path):
    found = find(put_some(tmp_path, boxes(1, 9, 7)), "data.label_map={9: 1, 7: 2}")
    assert [each.values for each in found.classes] == [[0], [1, 9], [7]]
    layers = np.dstack([boxes(1), boxes(1, 1)])
    found = find(put_some(tmp_path / "layers", layers), "head=multilabel")
    assert [each.values for each in found.classes] == [[1], [1]]
    assert [each.share for each in found.classes] == pytest.approx([12 / 768, 24 / 768])


def test_sizes_channels_and_formats(tmp_path):
    for number, side in enumerate((20, 50, 30, 8, 40)):
        put(tmp_path, str(number), noise(5, "uint16", (side, 10)), boxes(1, size=(side, 10)))
    found = find(tmp_path)
    assert found.sizes == [(8, 10), (30, 10), (50, 10)]
    assert (found.channels, found.dtypes) == ({5: 5}, {"uint16": 5})
    assert found.endings == ({".tif": 5}, {".png": 5})
    assert list(found.folders[1].values()) == [5]


def test_saturated_and_constant_images(tmp_path):
    put_some(tmp_path, boxes(1), 6)
    bright = noise()
    bright[:3] = 255
    put(tmp_path, "01", bright, boxes(1))
    put(tmp_path, "02", np.full((*SIZE, 1), 70, np.uint8), boxes(1))
    almost = np.full((*SIZE, 1), 70, np.uint8)
    almost[0, 0] = 71
    put(tmp_path, "03", almost, boxes(1))
    few = noise()
    few[0, :20] = 255  # less than a twentieth
    put(tmp_path, "04", few, boxes(1))
    found = find(tmp_path)
    assert found.saturated == ["images/01.png"]
    assert sorted(found.constant) == ["images/02.png", "images/03.png"]
    assert (found.low, found.high) == (10, 255)


def test_objects_are_ids_or_regions(tmp_path):
    mask = boxes(1, 1, 1)
    found = find(put_some(tmp_path / "regions", mask), "data.split=blocks").objects
    assert (found.are_ids, found.count, found.masks, found.median_area) == (False, 12, 4, 12)
    found = find(put_some(tmp_path / "ids", boxes(3, 4, 3)), "data.instances=true").objects
    assert (found.are_ids, found.count, found.masks, found.median_area) == (True, 10, 5, 18)


def test_images_without_annotation(tmp_path):
    put_some(tmp_path, boxes(1))
    put(tmp_path, "01", noise(), boxes())
    put(tmp_path, "02", noise(), boxes() + 255)
    found = find(tmp_path, "data.label_map={255: 255}")
    assert found.background_only == ["images/01.png"]
    assert found.unlabelled == ["images/02.png"]


def test_the_same_image_in_two_splits_is_a_leak(tmp_path):
    for split in ("train", "val", "test"):
        put_some(tmp_path / split, boxes(1), 3)
    same, alike = noise(), noise()
    put(tmp_path / "train", "00", same, boxes(1))
    put(tmp_path / "val", "02", same, boxes(1))
    put(tmp_path / "train", "01", alike, boxes(1))
    put(tmp_path / "test", "01", alike[:, ::-1], boxes(1))  # the same values elsewhere
    blank = np.zeros((*SIZE, 1), np.uint8)
    put(tmp_path / "train", "02", blank, boxes(1))
    put(tmp_path / "test", "02", blank, boxes(1))
    assert find(tmp_path).leaks == [["train/images/00.png", "val/images/02.png"]]


# --- what is said --------------------------------------------------------------------------------


def test_annotations_are_not_called_masks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_some(tmp_path, boxes(1), 3)
    shutil.rmtree(tmp_path / "masks")
    for number in range(3):
        corners = [[2, 2], [12, 2], [12, 9], [2, 9]]
        shape = {"label": "cell", "points": corners, "shape_type": "polygon"}
        content = {"shapes": [shape], "imagePath": f"{number:02d}.png"}
        (tmp_path / f"images/{number:02d}.json").write_text(json.dumps(content))
    run(tmp_path)
    text = capsys.readouterr().out
    assert "masks drawn from annotations, see the notes" in text
    assert "annotations are LabelMe JSON: 3 images" in text
    assert "a mask is named" not in text


def test_the_text_tells_a_reader_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_some(Path("my set"), boxes(1, 2), 10)
    Path("my set/images/notes.txt").write_text("")
    run(Path("my set"), "data.class_names=[background,cell (round),flat]")
    text = capsys.readouterr().out
    for part in (
        "images in my set/images (10); masks in my set/masks (10)",
        "a mask is named like its image",
        "20% for validation and 0% for testing, drawn at random (data.split=random)",
        "images .png (10); masks .png (10)",
        "8 train, 2 val, 0 test",
        "all 24 x 32 pixels",
        "1 of uint8",
        "10 to 239",
        "16 connected regions in 8 masks of 10",
        "1 file in images is not used (1 .txt): notes.txt",
        "cell (round)",
        "#e69f00",
        "1.56%",
        "check.png",
    ):
        assert part in text, (part, text)
    assert Path("check.png").is_file()
    command = text.rstrip().splitlines()[-1].strip()
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "segkit.train"]
    config = compose(words[3:])
    assert (config.data.root, config.head.name) == ("my set", "multiclass")
    assert config.data.class_names == ["background", "cell (round)", "flat"]
    assert not capsys.readouterr().err


def test_splits_and_pairs_are_described(tmp_path, capsys):
    for split in ("train", "val"):
        put_some(tmp_path / split, boxes(1), 2)
    run(tmp_path, "sheet=false")
    assert "split           by the folders" in capsys.readouterr().out
    rows = [f"train/images/{i:02d}.png,train/masks/{i:02d}.png" for i in range(2)]
    for columns, words in (
        (("", "", ""), "drawn at random"),
        ((",split", ",train", ",val"), "by the table"),
    ):
        lines = [f"image,mask{columns[0]}"]
        lines += [row + end for row, end in zip(rows, columns[1:], strict=True)]
        (tmp_path / "pairs.csv").write_text("\n".join(lines))
        run(None, "sheet=false", f"data.pairs={tmp_path / 'pairs.csv'}")
        text = capsys.readouterr().out
        assert words in text
        assert "paired by the table" in text
    check_data(compose(["sheet=false", "data=cells_small"], "data_check"))
    found = find(put_some(tmp_path / "one", boxes(1)), "data.val_fraction=0")
    assert describe_split(found) == (
        "0% for validation and 0% for testing, drawn at random (data.split=random)"
    )
    assert "as the data set 'cells' is divided" in capsys.readouterr().out


def test_mask_values_that_are_none_are_named(tmp_path, capsys):
    """Two kinds of masks in one set: a GeoTIFF with nodata, and a picture with transparency."""
    for number in range(4):
        put(tmp_path, str(number), noise(), boxes(1))
    nodata = [(42113, 2, 2, "9", True)]
    tifffile.imwrite(tmp_path / "masks/0.tif", np.uint8(boxes(40, 9)), extratags=nodata)
    clear = np.dstack([boxes(0, 80) + 7] * 3 + [boxes(0, 255)]).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "masks/1.png"), clear)
    (tmp_path / "masks/0.png").unlink()
    with pytest.raises(SegkitError):
        run(tmp_path, "head=multiclass")
    text = capsys.readouterr().out
    assert "no data" in text
    assert "transparent" in text
    assert not re.search(r"[│ ]-[12] ", text)
    found = find(tmp_path, "head=multiclass")
    assert [each.values[0] for each in found.classes][:2] == [-2, -1]
    documented = (Path(__file__).parents[2] / "docs/data.md").read_text()
    assert "-1 are pixels without data or a label, -2 transparent ones" in documented


def test_leaks_and_odd_images_are_told_with_their_names(tmp_path, capsys):
    same = noise()
    for split in ("train", "val"):
        put_some(tmp_path / split, boxes(1), 3)
        put(tmp_path / split, "a", same, boxes(1))
    put(tmp_path / "val", "b", np.zeros((*SIZE, 1), np.uint8), boxes())
    run(tmp_path, "sheet=false")
    text = capsys.readouterr().out
    assert "1 image is in several splits, pixel for pixel" in text
    assert "train/images/a.png = val/images/a.png" in text
    assert "1 image shows nearly nothing, the same value everywhere: val/images/b.png" in text
    assert "1 image without annotation: nothing but background: val/images/b.png" in text


def test_json_is_all_there_is_on_standard_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_some(tmp_path / "set", boxes(1, 2))
    run(tmp_path / "set", "format=json")
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    real = open_data_set

    def read_with_progress(settings):
        print("checking the data set")
        return real(settings)

    monkeypatch.setattr("segkit.inspection.command.open_data_set", read_with_progress)
    run(tmp_path / "set", "format=json", "sheet=false")
    out, err = capsys.readouterr()
    assert json.loads(out)["samples"] == found["samples"]
    assert err == "checking the data set\n"
    documented = (Path(__file__).parents[2] / "docs/data.md").read_text().partition("### JSON")[2]
    assert [f"\n| `{key}` |" in documented for key in found] == [True] * len(found)
    assert documented.count("\n| `") == len(found)
    assert (found["usable"], found["mode"], found["sheet"]) == (True, "multiclass", "check.png")
    assert found["samples"] == {"train": 4, "val": 1, "test": 0}
    assert found["sizes"] == {name: [24, 32] for name in ("smallest", "median", "largest")}
    assert found["classes"][1] == {
        "label": 1,
        "name": "class 1",
        "values": [1],
        "color": "#e69f00",
        "share": 12 / 768,
    }
    assert found["command"].endswith(" head=multiclass")


def test_a_set_that_cannot_be_used_is_described_before_the_message_of_the_training(
    tmp_path, capsys
):
    put_some(tmp_path, boxes(70, 140))
    (tmp_path / "images/00.png").write_bytes(b"\x89PNG")
    with pytest.raises(SegkitError) as caught:
        run(tmp_path, f"output={tmp_path / 'sheet.png'}")
    source = DataSource.build("folder", mode="multiclass", root=tmp_path)
    with pytest.raises(SegkitError) as wanted:
        check(source, "multiclass")
    assert str(caught.value) == str(wanted.value)
    text = capsys.readouterr().out
    assert "4 train, 1 val, 0 test" in text
    assert "values in the masks" in text
    assert "140" in text
    assert "To train" not in text
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] > SIDE
    with pytest.raises(SegkitError):
        run(tmp_path, "format=json", "sheet=false")
    found = json.loads(capsys.readouterr().out)
    assert (found["usable"], found["command"], found["sheet"]) == (False, None, None)
    assert found["problems"] == str(caught.value)
    assert [each["values"] for each in found["classes"]] == [[0], [70], [140]]


def test_wrong_options_are_refused(tmp_path):
    put_some(tmp_path, boxes(1))
    with pytest.raises(SegkitError, match=r"output=.*sheet\.jpg: the sheet is a PNG"):
        run(tmp_path, f"output={tmp_path / 'sheet.jpg'}")
    with pytest.raises(SegkitError, match="the data set 'cells' has no folder"):
        check_data(compose([f"root={tmp_path}", "data=cells"], "data_check"))
    with pytest.raises(SegkitError, match="the location of the data is missing"):
        run(None)
    with pytest.raises(SegkitError, match="there is no head 'binray'"):
        compose(["head=binray"], "data_check")


# --- the proposed command ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("a b", "scans (2)", 'x"y', "it's", "a,b", "{x}", "123", "1e5", "null", "True", "a=b"),
        *("back\\slash", "end\\", 'q\\"x', "C:\\data\\", "~/x", "$HOME", "a:b", "", " lead"),
        *("größe/π", "a${b}", "[1]", "*", "-x", "#", "nan", "/data/2026-01-02"),
    ],
)
def test_every_value_survives_the_shell_and_hydra(value):
    options = {"name": "folder", "root": value, "class_names": [value, "b"]}
    words = list_overrides(Data.model_validate(options), Part(name="binary"))
    assert shlex.split(" ".join(map(shlex.quote, words))) == words
    for word, wanted in zip(words[1:3], (value, [value, "b"]), strict=True):
        parsed = OverridesParser.create().parse_override(word)
        found = OmegaConf.to_container(OmegaConf.create({"it": parsed.value()}), resolve=True)
        assert found == {"it": wanted}


def test_only_what_differs_from_the_defaults_is_proposed():
    config = compose(
        [
            *("data.root=x", "data.channels=3", "data.crop_size=[64,96]", "data.cache=true"),
            *("data.label_map={7: 1, 9: 255}", "head=multiclass", "head.num_classes=4"),
        ],
        "data_check",
    )
    values = resolve_values(config)
    found = list_overrides(Data.model_validate(values["data"]), Part.model_validate(values["head"]))
    assert found == [
        *("data=folder", "data.root=x", "data.channels=3", "data.label_map={7:1,9:255}"),
        *("data.crop_size=[64,96]", "data.cache=true", "head=multiclass", "head.num_classes=4"),
    ]
    trained = compose(found)
    assert trained.data == {**config.data, "crop_size": [64, 96]}


# --- the sheet -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "channels", "dtype"),
    [
        ((8, 8), 1, "uint8"),
        ((30, 50), 3, "uint8"),
        ((40, 20), 13, "uint16"),
        ((1, 1600), 1, "uint16"),
    ],
)
def test_images_of_any_kind_fit_on_the_sheet(tmp_path, size, channels, dtype):
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = 1
    put_some(tmp_path, mask, 3, channels=channels, dtype=dtype)
    sheet = draw_sheet(find(tmp_path))
    assert sheet is not None
    assert (sheet.dtype, sheet.shape[2]) == (np.uint8, 3)
    assert 600 < sheet.shape[1] < 700
    assert sheet.std() > 1


def test_a_sheet_shows_samples_spread_over_the_set(tmp_path, monkeypatch):
    put_some(tmp_path, boxes(1), MOST + 5)
    drawn = []

    def note(found, sample, split):
        drawn.append(sample)
        return draw_tile(found, sample, split)

    monkeypatch.setattr("segkit.inspection.sheet.draw_tile", note)
    found = find(tmp_path)
    picture = draw_sheet(found)
    order = [sample for part in found.data.splits.values() for sample in part]
    assert picture is not None
    assert (len(drawn), drawn[0], drawn[-1]) == (MOST, order[0], order[-1])
    assert picture.shape[0] > 4 * SIDE * SIZE[0] / SIZE[1]
    assert spread(3, 16) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]


def test_the_painted_labels_are_those_of_the_classes(tmp_path):
    found = find(put_some(tmp_path / "a", boxes(255)))
    layer = make_layer(found, boxes(255))
    np.testing.assert_array_equal(layer.labels, boxes(1))
    assert layer.unpainted == 0
    found = find(put_some(tmp_path / "b", boxes(300, 7)), "data.instances=true")
    layer = make_layer(found, boxes(300, 7))
    assert len({tuple(layer.colors[i]) for i in np.unique(layer.labels)}) == 3
    masks = np.dstack([boxes(1, 1), boxes(0, 1)])
    found = find(put_some(tmp_path / "c", masks), "head=multilabel")
    layer = make_layer(found, masks)
    np.testing.assert_array_equal(layer.labels, boxes(1, 2))
    found = find(put_some(tmp_path / "d", boxes(70, 140)))
    layer = make_layer(found, boxes(70, 140, 99))
    np.testing.assert_array_equal(layer.labels, boxes(2, 3))


def test_the_legend_has_the_colours_of_the_pixels(tmp_path):
    sheet = draw_sheet(find(put_some(tmp_path, boxes(1, 2))))
    assert sheet is not None
    legend = sheet[-60:].reshape(-1, 3).tolist()
    for color in ([230, 159, 0], [0, 158, 115]):
        assert legend.count(color) >= 100
        assert (sheet[:-60].reshape(-1, 3) == color).all(axis=1).any()  # the outlines
    assert [0, 114, 178] not in legend  # the background


def test_long_names_lose_their_beginning():
    font = find_font(15)
    shown = fit_text("a/very/long/path/" * 9 + "cell.tif", 200, font)
    assert shown.startswith("…")
    assert shown.endswith("/cell.tif")
    assert 170 < font.getlength(shown) <= 200
    assert fit_text("cell.tif", 200, font) == "cell.tif"


# --- the command ---------------------------------------------------------------------------------


def run_command(folder: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own that cannot import torch."""
    code = (
        "import sys, runpy\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['segkit.data', *{list(words)!r}]\n"
        "runpy.run_module('segkit.data', run_name='__main__')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_command_needs_no_torch_and_prints_only_json(tmp_path):
    put_some(tmp_path / "set", boxes(1))
    done = run_command(tmp_path, "check", "root=set", "head=auto", "format=json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["mode"] == "binary"
    assert cv2.imread(str(tmp_path / "check.png")) is not None
    assert {path.name for path in tmp_path.iterdir()} == {"set", "check.png"}


@pytest.mark.slow
def test_the_real_command(tmp_path):
    put_some(tmp_path / "set", boxes(1, 2))
    module = [sys.executable, "-m", "segkit", "data"]
    done = subprocess.run(
        [*module, "check", "root=set", "data.val_fraction=0.4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    command = done.stdout.splitlines()[-1].strip()
    assert command == (
        "python -m segkit.train data=folder data.root=set data.val_fraction=0.4 head=multiclass"
    )
    done = run_command(tmp_path, "check", "root=set", "head=binary")
    assert done.returncode == 2
    assert "3 train" not in done.stderr
    assert "4 train, 1 val" in done.stdout
    assert done.stderr.startswith("error: the data set has 1 problem:")
    for words in ([], ["--help"]):
        done = run_command(tmp_path, *words)
        assert "\n  convert    write" in done.stdout
    done = run_command(tmp_path, "chekc")
    assert (done.returncode, "Did you mean 'check'?" in done.stderr) == (2, True)
    done = run_command(tmp_path, "check", "--help", "root=set")
    assert "\n# file" not in done.stdout
    assert "\noutput: check.png\n" in done.stdout
    done = run_command(tmp_path, "convert", "root=set", "output=new")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 of 5 samples are written to new" in done.stdout
