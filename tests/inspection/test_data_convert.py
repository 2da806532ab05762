"""The convert command: a data set as plain images and masks that train to the same."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from inspection.composing import make_config
from PIL import Image

from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import SegkitError
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.base import DataSource
from segkit.images.reading import read_image, read_mask
from segkit.inspection import conversion
from segkit.inspection.command import convert_data
from segkit.inspection.conversion import Conversion, encode_image, keep_ids

RNG = np.random.default_rng(0)
SHAPE = (20, 30)


def draw(*values: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.int32)
    for number, value in enumerate(values):
        mask[number : number + 3, 4 * number : 4 * number + 3] = value
    return mask


def put(root: Path, name: str, image: np.ndarray, mask: np.ndarray, kind: str = "tif") -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    color = image.ndim == 3 and image.shape[2] == 3
    options: dict[str, Any] = {"planarconfig": "contig"} if image.ndim == 3 else {}
    if kind == "png":
        Image.fromarray(image).save(root / f"images/{name}.png")
    else:
        photometric = "rgb" if color else "minisblack"
        tifffile.imwrite(root / f"images/{name}.tif", image, photometric=photometric, **options)
    layers = np.moveaxis(mask, 2, 0) if mask.ndim == 3 else mask
    tifffile.imwrite(root / f"masks/{name}.tif", layers, photometric="minisblack", metadata=None)


def run(root: Path, output: Path, *overrides: str) -> Conversion:
    return convert_data(make_config("data_convert", root, *overrides, output=output))


def summarize(data: Any, mode: Any, count: int | None = None) -> DataSummary:
    return check(DataSource.build(data.name, mode=mode, **data.options), mode, count)


@pytest.mark.parametrize("layout", ["folders", "csv"])
@pytest.mark.parametrize(
    ("channels", "dtype", "mask", "head", "options"),
    [
        (0, "uint8", draw(255, 255), "binary", {}),
        (3, "uint16", draw(1, 2, 255), "multiclass", {}),
        (5, "float32", draw(9, 4, 4), "multiclass", {"label_map": {9: 1, 4: 2}}),
        (2, "uint16", draw(3, 255, 70000), "binary", {"instances": True}),
        (4, "uint8", np.dstack([draw(1), draw(0, 1), draw(1, 1)]), "multilabel", {}),
    ],
)
def test_a_converted_set_trains_to_the_same_summary(
    tmp_path, channels, dtype, mask, head, options, layout
):
    for number in range(6):
        shape = (*SHAPE, channels) if channels else SHAPE
        image = RNG.integers(5, 250, shape).astype(dtype)
        put(tmp_path / "old", f"im {number}", image, np.roll(mask, number, 0))
    given = [f"data.{k}={v}" for k, v in options.items()]
    given += [f"head={head}", f"layout={layout}", "data.test_fraction=0.2"]
    done = run(tmp_path / "old", tmp_path / "new", *given)
    source = DataSource.build(
        "folder", mode=head, root=tmp_path / "old", test_fraction=0.2, **options
    )
    old, new = check(source, head), summarize(done.data, head)
    assert new.class_share == pytest.approx(old.class_share)
    assert {s: len(v) for s, v in new.splits.items()} == {s: len(v) for s, v in old.splits.items()}
    assert new.normalization.dtype == old.normalization.dtype
    for key in ("low", "high", "mean", "std"):
        wanted = getattr(old.normalization, key)
        assert getattr(new.normalization, key) == pytest.approx(wanted)
    assert (new.num_classes, new.in_channels) == (old.num_classes, old.in_channels)
    assert new.measures == old.measures
    for split, samples in old.splits.items():
        for one in samples:
            stem = one.name.rpartition("/")[2][:-4].replace(" ", "_")
            [other] = [s for s in new.splits[split] if stem in s.name]
            image = DataSource.build("folder", mode=head, **done.data.options).read_image(other)
            np.testing.assert_array_equal(image, source.read_image(one))
    rows = (tmp_path / "new/classes.csv").read_text().splitlines()
    assert rows[0] == "label,name,color,share"
    assert len(rows) == old.num_classes + 1
    where = tmp_path / "new" if layout == "csv" else tmp_path / "new/train"
    plain = channels in (0, 3) and dtype != "float32"
    assert {p.suffix for p in (where / "images").iterdir()} == {".png" if plain else ".tif"}


def test_pixels_without_data_are_not_labelled_and_keep_their_values(tmp_path):
    for number in range(4):
        image = RNG.integers(5, 250, (*SHAPE, 4)).astype(np.uint8)
        image[..., 3] = 255
        image[5:9, :, 3] = 0
        put(tmp_path / "old", str(number), image, draw(1) * (number % 2), "png")
    done = run(tmp_path / "old", tmp_path / "new")
    name = next((tmp_path / "new/train/images").iterdir()).name
    shown = read_image(tmp_path / "new/train/images" / name)
    stored = np.array(Image.open(tmp_path / "old/images" / name))[..., :3]
    assert not np.ma.isMaskedArray(shown)
    np.testing.assert_array_equal(shown, stored)
    mask = read_mask(tmp_path / "new/train/masks" / name)
    assert (mask[5:9] == 255).all()
    assert 255 not in np.delete(mask, range(5, 9), 0)
    assert done.data.options["label_map"] == {255: 255}
    old = check(DataSource.build("folder", mode="binary", root=tmp_path / "old"), "binary")
    assert summarize(done.data, "binary").class_share == pytest.approx(old.class_share)


def test_pages_of_a_stack_and_folders_with_equal_names(tmp_path):
    for folder in ("a", "b"):
        for side in ("images", "masks"):
            (tmp_path / f"old/{side}/{folder}").mkdir(parents=True)
        pages = RNG.integers(5, 250, (3, *SHAPE)).astype(np.uint8)
        masks = np.stack([draw(1)] * 3).astype(np.uint8)
        tifffile.imwrite(tmp_path / f"old/images/{folder}/s.tif", pages, photometric="minisblack")
        tifffile.imwrite(tmp_path / f"old/masks/{folder}/s.tif", masks, photometric="minisblack")
    run(tmp_path / "old", tmp_path / "new", "layout=csv")
    names = sorted(path.name for path in (tmp_path / "new/images").iterdir())
    assert names == [f"images_{f}_s_000{page}.png" for f in "ab" for page in range(3)]


def put_set(root: Path, count: int = 4) -> Path:
    for number in range(count):
        image = RNG.integers(5, 250, SHAPE).astype(np.uint8)
        put(root, str(number), image, draw(1).astype(np.uint8))
    return root


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch):
    old, new = put_set(tmp_path / "old", 12), tmp_path / "new"
    before = snapshot(old)
    real = conversion.write_sample

    def write_slowly(source, summary, item):
        time.sleep(0.02)
        real(source, summary, item)

    def stop(sequence, *args, **options):  # as Ctrl-C does while the progress is drawn
        for number, each in enumerate(sequence):
            if number == 2:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(conversion, "write_sample", write_slowly)
    monkeypatch.setattr(conversion, "track", stop)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        run(old, new)
    finished = len(list(new.rglob("images/*")))
    assert 2 <= finished < 8  # not all others first
    assert not (new / "classes.csv").exists()
    monkeypatch.undo()
    first = snapshot(new)
    done = run(old, new)
    assert (done.samples, done.written) == (12, 12 - finished)
    assert {path: snapshot(new)[path] for path in first} == first
    assert run(old, new).written == 0
    lost = next(new.rglob("masks/*.png"))
    lost.unlink()
    assert run(old, new).written == 1
    assert lost.exists()
    image = next((old / "images").iterdir())
    Image.fromarray(RNG.integers(5, 250, SHAPE).astype(np.uint8)).save(image)
    assert run(old, new).written == 1  # its source is newer
    assert {k: v for k, v in snapshot(old).items() if k != str(image)} == {
        k: v for k, v in before.items() if k != str(image)
    }
    assert not list(new.rglob("*.tmp"))


def test_folders_with_other_content_need_overwrite(tmp_path):
    old, new = put_set(tmp_path / "old"), tmp_path / "new"
    new.mkdir()
    (new / "mine.txt").write_text("mine")
    with pytest.raises(SegkitError, match=r"is not empty, and no conversion: it has no conv"):
        run(old, new)
    assert [path.name for path in new.iterdir()] == ["mine.txt"]
    assert run(old, new, "overwrite=true").written == 4
    assert (new / "mine.txt").read_text() == "mine"
    with pytest.raises(SegkitError, match="holds a conversion of other data or with other options"):
        run(old, new, "data.val_fraction=0.5")
    assert len(list((new / "val/images").iterdir())) == 1
    run(old, new, "data.val_fraction=0.5", "overwrite=true")
    assert len(list((new / "val/images").iterdir())) == 2
    assert len(list((new / "train/images").iterdir())) == 2  # none is in two splits
    assert len(list((new / "train/masks").iterdir())) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match="is a file: name a folder"):
        run(old, tmp_path / "file")


def test_a_record_cannot_remove_files_elsewhere(tmp_path):
    old, new = put_set(tmp_path / "old"), tmp_path / "new"
    (tmp_path / "images").mkdir()
    other = tmp_path / "images/other.png"
    other.write_text("")
    run(old, new)
    record = json.loads((new / "conversion.json").read_text())
    record["images"] = ["../images/other", *record["images"]]
    (new / "conversion.json").write_text(json.dumps(record))
    run(old, new, "overwrite=true")
    assert other.exists()


def test_the_data_set_itself_is_never_written_to(tmp_path):
    old = put_set(tmp_path / "old")
    before = snapshot(old)
    for output in (old, old / "images", tmp_path):
        with pytest.raises(SegkitError, match="is the folder of the data set itself"):
            run(old, output, "overwrite=true")
    assert snapshot(old) == before


def test_a_set_that_cannot_be_used_is_not_converted(tmp_path):
    old = put_set(tmp_path / "old")
    (old / "masks/1.tif").unlink()
    with pytest.raises(SegkitError, match="the data set has 1 problem"):
        run(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_ids_stay_and_255_means_not_labelled():
    coding = LabelCoding({-1: 255, 9: 0}, foreground=True)
    ids = np.array([[0, 7, 255], [-1, 9, 300]])
    assert keep_ids(ids, coding, None).tolist() == [[0, 7, 301], [255, 0, 300]]
    empty = np.array([[True, False, False], [False] * 3])
    assert keep_ids(ids, coding, empty)[0, 0] == 255


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 3), (3, 4)])
def test_images_keep_every_value(tmp_path, dtype, channels, size):
    image = RNG.integers(0, 256, (*size, channels)).astype(dtype)
    content, suffix = encode_image(image)
    (tmp_path / f"a{suffix}").write_bytes(content)
    found = read_image(tmp_path / f"a{suffix}")
    assert (found.dtype, found.shape) == (image.dtype, image.shape)
    np.testing.assert_array_equal(found, image)
    assert suffix == (".png" if channels in (1, 3) and dtype != "float32" else ".tif")
