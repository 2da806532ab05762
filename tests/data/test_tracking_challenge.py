"""Data sets of the Cell Tracking Challenge: frames, splits, cells without an outline."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.checks.summary import check
from segkit.data.sources.base import DataSource
from segkit.data.sources.cells import draw
from segkit.data.sources.tracking_challenge import (
    UNLABELLED,
    TrackingChallengeSource,
    find_uncertain_pixels,
    find_unoutlined_markers,
    measure_reach,
)

SIZE = (96, 112)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)


def draw_markers(ids: np.ndarray) -> np.ndarray:
    """A spot at the innermost place of every object, as (H, W) ids."""
    spots = np.zeros_like(ids)
    for number in np.unique(ids[ids > 0]):
        depth = ndimage.distance_transform_edt(np.pad(ids == number, 1))[1:-1, 1:-1]
        spots[depth > 0.6 * depth.max()] = number
    return spots


def put(
    home: Path,
    frame: str,
    image: np.ndarray,
    ids: np.ndarray,
    outlined: Any = None,
    truth: str = "GT",
) -> None:
    """A frame such as "01/000": its image, its markers, and the outlines of some of its cells."""
    sequence, number = frame.split("/")
    write(home / sequence / f"t{number}.tif", image)
    write(home / f"{sequence}_GT/TRA/man_track{number}.tif", draw_markers(ids).astype(np.uint16))
    if outlined is not False:
        shown = ids if outlined is None else ids * np.isin(ids, outlined)
        path = home / f"{sequence}_{truth}/SEG/man_seg{number}.tif"
        write(path, shown.astype(np.uint16))


def put_drawn(home: Path, frames: list[str], **options: Any) -> dict[str, np.ndarray]:
    """Drawn frames, the ids of whose cells are returned by name."""
    known = {}
    for seed, frame in enumerate(frames):
        cells = draw(seed, SIZE)
        put(home, frame, cells.image[..., 0], cells.instances, **options)
        known[frame.replace("/", "/t")] = cells.instances
    return known


def source(root: Path, **options: Any) -> TrackingChallengeSource:
    return TrackingChallengeSource.build("tracking_challenge", mode="binary", root=root, **options)


def names(found: DataSource) -> dict[str, list[str]]:
    assert found.problems() == []
    return {split: [s.name for s in samples] for split, samples in found.splits().items()}


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "above"), [(3, False), (4, True)])
def test_the_frames_with_outlines_are_samples(tmp_path, digits, above):
    home = tmp_path / "DIC-C2DH-HeLa" if above else tmp_path
    frames = [f"{s}/{n:0{digits}}" for s in ("01", "02") for n in range(3)]
    known = put_drawn(home, frames)
    for sequence in ("01", "02"):  # most frames of the challenge have no outlines
        (home / f"{sequence}_GT/SEG/man_seg{1:0{digits}}.tif").unlink()
    (home / "01_GT/TRA/man_track.txt").write_text("1 0 5 0\n")
    found = source(tmp_path, val_fraction=0)
    assert names(found)["train"] == [name for name in known if not name.endswith("1")]
    for sample in found.splits()["train"]:
        image, mask = found.read_image(sample), found.read_mask(sample)
        cells = known[sample.name]
        assert (image.dtype, mask.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(image, draw(list(known).index(sample.name), SIZE).image)
        np.testing.assert_array_equal(mask, cells)
        np.testing.assert_array_equal(found.read_markers(sample), draw_markers(cells))


def test_16_bit_ids_are_kept_and_255_is_a_cell(tmp_path):
    ids = np.zeros(SIZE, np.int32)
    for number, value in enumerate((1, 255, 256, 65535)):
        ids[10:30, 20 * number + 5 : 20 * number + 20] = value
    put(tmp_path, "01/000", ids.astype(np.uint8), ids)
    put(tmp_path, "02/000", ids.astype(np.uint8), ids, outlined=[1, 255, 65535])
    found = source(tmp_path, val_sequences=["02"])
    summary = check(found, "binary")
    for split, labels in (("train", {0, 1}), ("val", {0, 1, IGNORE_INDEX})):
        [sample] = summary.splits[split]
        mask = found.read_mask(sample)
        encoded = summary.coding.encode(mask)
        assert set(np.unique(encoded)) == labels
        np.testing.assert_array_equal(encoded == 1, mask > 0)
        np.testing.assert_array_equal(encoded == IGNORE_INDEX, mask == UNLABELLED)
        np.testing.assert_array_equal(mask[mask > 0], ids[mask > 0])
    assert (summary.num_classes, summary.class_names) == (2, ("background", "cell"))
    assert {1, 255, 65535, UNLABELLED, 0} == set(np.unique(mask))


def test_silver_truth_goes_with_the_markers_of_the_gold(tmp_path):
    put_drawn(tmp_path, ["01/000"])
    known = put_drawn(tmp_path, ["01/000", "01/001", "01/002"], truth="ST")
    assert len(names(source(tmp_path, val_fraction=0))["train"]) == 1
    found = source(tmp_path, val_fraction=0, truth="silver")
    assert names(found)["train"] == list(known)
    for sample in found.splits()["train"]:
        np.testing.assert_array_equal(found.read_mask(sample), known[sample.name])
        assert found.read_markers(sample) is not None


# --- splits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of four frames."""
    home = tmp_path_factory.mktemp("twelve")
    put_drawn(home, [f"{s}/{n:03}" for s in ("01", "02", "03") for n in (3, 9, 40, 100)])
    return home


def test_the_last_frames_of_each_sequence_are_held_out(twelve):
    divided = names(source(twelve, val_fraction=0.25, test_fraction=0.25))
    wanted = {"train": ("003", "009"), "val": ("040",), "test": ("100",)}
    for split, frames in wanted.items():
        assert divided[split] == [f"{s}/t{n}" for s in ("01", "02", "03") for n in frames]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"val_sequences": ["02"]}, {"train": 8, "val": 4, "test": 0}),
        ({"val_sequences": [2]}, {"train": 8, "val": 4, "test": 0}),  # YAML's reading of [02]
        ({"val_sequences": ["02"], "test_sequences": ["03"]}, {"train": 4, "val": 4, "test": 4}),
        ({"test_sequences": ["01", "02"]}, {"train": 3, "val": 1, "test": 8}),
        ({"val_sequences": ["02"], "test_fraction": 0.25}, {"train": 6, "val": 4, "test": 2}),
    ],
)
def test_whole_sequences(twelve, options, wanted):
    divided = names(source(twelve, **options))
    assert {split: len(part) for split, part in divided.items()} == wanted
    if options.get("val_sequences"):
        assert divided["val"] == [f"02/t{number}" for number in ("003", "009", "040", "100")]
        assert not any(name.startswith("02") for name in divided["train"])


def test_unknown_sequences_and_sequences_in_two_splits(twelve):
    with pytest.raises(SegkitError, match=r"data\.test_sequences: .* '04' .* only 01, 02, 03"):
        source(twelve, test_sequences=["04"]).splits()
    with pytest.raises(SegkitError, match="both contain '02'"):
        source(twelve, test_sequences=["02"], val_sequences=["01", "02"])


# --- cells with a marker but no outline ----------------------------------------------------------


def partly(home: Path) -> tuple[np.ndarray, list[int]]:
    """Two frames, the second partly outlined: the ids of its cells and those that are outlined."""
    cells = draw(5, SIZE, n_cells=(6, 6))
    count = int(cells.instances.max())
    outlined = list(range(2, count, 2))
    full = draw(6, SIZE, n_cells=(9, 9))
    put(home, "01/000", full.image[..., 0], full.instances)
    put(home, "01/001", cells.image[..., 0], cells.instances, outlined)
    return cells.instances, outlined


def test_pixels_of_a_possible_cell_are_not_labelled(tmp_path):
    ids, outlined = partly(tmp_path)
    found = source(tmp_path, val_fraction=0)
    mask = found.read_mask(found.splits()["train"][1])
    again = pickle.loads(pickle.dumps(found))  # as in another process
    np.testing.assert_array_equal(again.read_mask(again.splits()["train"][1]), mask)
    shown = np.isin(ids, outlined)
    hidden, ground = (ids > 0) & ~shown, ids == 0
    np.testing.assert_array_equal(mask[shown], ids[shown])  # what is outlined stays
    assert (mask[hidden] == UNLABELLED).all()  # none of their pixels is taught as background
    assert 0.5 < (mask[ground] == 0).mean() < 0.95  # and not all of the background is lost
    far = ndimage.distance_transform_edt(~hidden) > 40
    assert (mask[far & ground] == 0).all()
    plain = source(tmp_path, val_fraction=0, unoutlined="background")
    np.testing.assert_array_equal(plain.read_mask(plain.splits()["train"][1]), ids * shown)


def test_the_reach_is_that_of_the_whole_sequence(tmp_path):
    """The only outlined cells lie in another frame: its longest one says how far cells extend."""
    bar, spot, mark = (np.zeros(SIZE, np.int32) for _ in range(3))
    bar[40:43, 10:41] = 7
    mark[41, 25] = 7  # in its middle: 15 pixels to the ends
    spot[60:63, 60:63] = 7
    put(tmp_path, "01/000", bar.astype(np.uint8), bar)
    put(tmp_path, "01/001", bar.astype(np.uint8), spot, outlined=[])
    write(tmp_path / "01_GT/TRA/man_track000.tif", mark.astype(np.uint16))
    found = source(tmp_path, val_fraction=0)
    sample = found.splits()["train"][1]
    radius = 1.25 * np.hypot(15, 1)  # the largest may be among those without outline
    distance = ndimage.distance_transform_edt(found.read_markers(sample) == 0)
    np.testing.assert_array_equal(found.read_mask(sample) == UNLABELLED, distance <= radius)


def test_without_outlines_nothing_is_labelled(tmp_path):
    put_drawn(tmp_path, ["01/000", "01/001"], outlined=[])
    found = source(tmp_path, val_fraction=0)
    assert (found.read_mask(found.splits()["train"][0]) == UNLABELLED).all()
    with pytest.raises(SegkitError, match="no pixel of the training masks is labelled"):
        check(found, "binary", needed=("train",))


@pytest.mark.parametrize(("covered", "alone"), [(0, True), (4, True), (5, False), (8, False)])
def test_a_marker_is_outlined_if_more_than_half_of_it_is(covered, alone):
    markers, ids = np.zeros((6, 12), np.int32), np.zeros((6, 12), np.int32)
    markers[2, 2:10] = 60000
    ids[:, : 2 + covered] = 3
    only = find_unoutlined_markers(ids, markers)
    np.testing.assert_array_equal(only, (markers > 0) & alone)


def test_the_reach_is_measured_from_an_objects_own_marker():
    ids, markers = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    ids[5:16, 5:16], ids[5:16, 16:21] = 9, 300  # side by side
    markers[10, 5:7], markers[10, 15:20] = 2, 1  # the second runs a little into the first
    # from column 6 to 15, row 10 to 5
    assert measure_reach(ids, markers) == pytest.approx(np.hypot(9, 5))
    assert measure_reach(ids, ids) == 0
    assert measure_reach(ids, np.zeros_like(ids)) is None
    assert measure_reach(np.zeros_like(ids), markers) is None


def test_a_cell_does_not_run_through_another():
    ids = np.zeros((30, 30), np.int32)
    ids[:, 12:15] = 1  # a wall
    rows, columns = np.mgrid[:30, :30]
    distance = np.hypot(rows - 15, columns - 8)
    alone, disc = distance == 0, distance <= 10
    np.testing.assert_array_equal(find_uncertain_pixels(ids, alone, 10), disc & (columns < 12))
    np.testing.assert_array_equal(find_uncertain_pixels(ids, alone, np.inf), columns < 12)
    assert not find_uncertain_pixels(ids, np.zeros_like(alone), np.inf).any()


def test_the_background_of_the_border_zone_is_not_labelled(tmp_path):
    known = put_drawn(tmp_path, ["01/000"])
    found = source(tmp_path, border=20)
    mask = found.read_mask(found.splits()["train"][0])
    cells = known["01/t000"]
    inner = np.zeros(SIZE, np.bool_)
    inner[20:76, 20:92] = True
    np.testing.assert_array_equal(mask[inner], cells[inner])
    np.testing.assert_array_equal(mask[~inner], np.where(cells, cells, UNLABELLED)[~inner])
    with pytest.raises(SegkitError, match=r"nothing is left inside data\.border=48"):
        source(tmp_path, border=48).read_mask(found.splits()["train"][0])


# --- errors -------------------------------------------------------------------------------------


def read_error(root: Path, **options: Any) -> str:
    with pytest.raises(SegkitError) as error:
        source(root, **options).splits()
    text = str(error.value)
    assert "https://celltrackingchallenge.net/2d-datasets/" in text  # where to get it ...
    assert "DIR/01_GT/SEG/man_seg000.tif" in text  # ... and its layout
    return text.partition("\n")[0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "there is no folder"),
        ("", "It contains: nothing"),
        ("pictures", "has no folders 01 and 01_GT. It contains: pictures"),
        ("01", "no reference, no folder 01_GT: it is a test set"),
        ("a/01", "no reference, no folder 01_GT: it is a test set"),
    ],
)
def test_a_missing_data_set(tmp_path, made, message):
    if made is not None:
        (tmp_path / "data" / made).mkdir(parents=True)
    assert message in read_error(tmp_path / "data")


@pytest.mark.parametrize(
    ("home", "outlined", "extra", "options", "message"),
    [
        ("", False, None, {}, "has no outlines, no 01_GT/SEG/man_seg000.tif"),
        ("", None, None, {"truth": "silver"}, "01_ST/SEG/man_seg000.tif .* data.truth=gold"),
        ("", None, "01_GT/SEG/man_seg_000_005.tif", {}, "three-dimensional"),
        ("", None, "01/t000.tif", {}, "three-dimensional"),
        ("one", None, "two/01_GT/SEG/man_seg000.tif", {}, "several data sets, one, two: choose"),
    ],
)
def test_data_sets_that_cannot_be_used(tmp_path, home, outlined, extra, options, message):
    put_drawn(tmp_path / home, ["01/000"], outlined=outlined)
    if extra:
        write(tmp_path / extra, np.zeros((4, *SIZE), np.uint16))
    assert re.search(message, read_error(tmp_path, **options))


def test_outlines_without_an_image_or_markers(tmp_path):
    put_drawn(tmp_path, ["01/000", "01/001", "01/002"])
    (tmp_path / "01" / "t001.tif").unlink()
    (tmp_path / "01_GT" / "TRA" / "man_track002.tif").unlink()
    found = source(tmp_path)
    no_image, no_markers = found.problems()
    assert no_image == "01_GT/SEG/man_seg001.tif has no image: there is no 01/t001.tif"
    assert no_markers.startswith("01/t002 has outlines but no markers")
    assert "01_GT/TRA/man_track002.tif" in no_markers
    assert "data.unoutlined=background" in no_markers
    last = [sample for part in found.splits().values() for sample in part][-1]
    assert (last.name, found.read_markers(last)) == ("01/t002", None)
    assert source(tmp_path, unoutlined="background").problems() == [no_image]


def test_different_sizes_are_reported_by_the_check(tmp_path):
    known = put_drawn(tmp_path, ["01/000", "01/001", "01/002"], outlined=[1, 2])
    cells = known["01/t001"].astype(np.uint16)
    write(tmp_path / "01_GT" / "TRA" / "man_track001.tif", cells[:-3])
    write(tmp_path / "01" / "t002.tif", np.zeros((50, 60), np.uint8))
    with pytest.raises(SegkitError) as error:
        check(source(tmp_path), "binary")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "man_seg001.tif has 96 x 112 pixels, but its markers have 93 x 112" in lines[1]
    assert "01/t002: the image has 50 x 60 pixels" in lines[2]


# --- presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tracking_challenge", "phc_u373", "dic_hela"])
def test_the_presets_build_it(twelve, preset):
    overrides = [f"data={preset}", f"data.root={twelve}", "data.test_sequences=[03]"]
    data = validate(compose(overrides)).data
    found = TrackingChallengeSource.build(data.name, mode="binary", **data.options)
    divided = names(found)
    strict = preset != "tracking_challenge"
    assert {name[:2] for name in divided["train"]} == ({"01"} if strict else {"01", "02"})
    assert {name[:2] for name in divided["test"]} == {"03"}
    assert found.border == (50 if strict else 0)
