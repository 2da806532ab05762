"""Sets whose images have their channels in several files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.layout.channels import find_channel
from segkit.data.sources.base import Sample
from segkit.data.sources.folder import FolderSource
from segkit.images.paths import MARK
from segkit.images.writing import write_image, write_mask

LABELS = np.eye(6, 5, dtype=np.uint8)


def put(root: Path, *names: str) -> None:
    """Images whose values are the number of the name, and masks, which lie in folders of masks."""
    for number, name in enumerate(names, 1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "labels" in name or "masks" in name or "gt" in name:
            write_mask(path, LABELS)
        else:
            write_image(path, np.full((6, 5, 1), number, np.uint8))


def read(source: FolderSource) -> dict[str, list[int]]:
    """The values of the channels of all images, by name."""
    samples = [sample for part in source.splits().values() for sample in part]
    assert source.problems() == []
    return {sample.name: source.read_image(sample)[0, 0].tolist() for sample in samples}


def typed(text: str) -> dict[str, str]:
    """The options of data that a message proposes."""
    words = [word for word in shlex.split(text) if word.startswith("data.")]
    return {key: value for key, _, value in (word[5:].partition("=") for word in words)}


CASES = [f"imagesTr/{n}_{c:04d}.png" for n in ("case_7", "case_0000", "b") for c in range(3)]
LABELLED = [f"labelsTr/{n}.png" for n in ("case_7", "case_0000", "b")]


def test_nnunet(tmp_path: Path) -> None:
    """Also of a case that is called like a channel."""
    put(tmp_path, *CASES, *LABELLED)
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"healthy": 0, "ill": 1}})
    )
    source = FolderSource("binary", root=tmp_path)
    assert read(source) == {
        "imagesTr/b.png": [7, 8, 9],
        "imagesTr/case_0000.png": [4, 5, 6],
        "imagesTr/case_7.png": [1, 2, 3],
    }
    assert source.channel_files == ("0000", "0001", "0002")
    [note] = [note for note in source.notes() if "channels" in note]
    assert note.startswith(
        "images are made of the files of the channels 0000 (T1), 0001 (FLAIR), 0002 in this order;"
    )
    assert typed(note) == {"channel_files": '["0000","0001","0002"]'}
    assert any("data.class_names=[healthy,ill]" in note for note in source.notes())


def test_channels_are_chosen_and_ordered(tmp_path: Path) -> None:
    put(tmp_path, *CASES, *LABELLED)
    source = FolderSource("binary", root=tmp_path, channel_files=["0002", "0000"])
    assert read(source)["imagesTr/case_7.png"] == [3, 1]
    one = FolderSource("binary", root=tmp_path, channel_files=["0001"])
    assert read(one) == {
        "imagesTr/b.png": [8],
        "imagesTr/case_0000.png": [5],
        "imagesTr/case_7.png": [2],
    }
    assert any("3 files in imagesTr are not used (3 .png): b_0001" in n for n in source.notes())


def test_volumes_of_nnunet(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    volumes = np.arange(2 * 6 * 5 * 3).reshape(2, 6, 5, 3).astype(np.int16)
    for folder, name, volume in (
        ("imagesTr", "a_0000", volumes[0]),
        ("imagesTr", "a_0001", volumes[1]),
        ("labelsTr", "a", (volumes[0] % 2).astype(np.uint8)),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(volume, np.diag([-1, -1, 2, 1]))
        nibabel.save(image, tmp_path / folder / f"{name}.nii.gz")
    source = FolderSource("binary", root=tmp_path, val_fraction=0)
    samples = source.splits()["train"]
    assert [sample.name for sample in samples] == [f"imagesTr/a.nii.gz#000{n}" for n in range(3)]
    for page, sample in enumerate(samples):
        wanted = np.stack([volume[:, :, page].T for volume in volumes], axis=2)
        np.testing.assert_array_equal(source.read_image(sample), wanted)
        np.testing.assert_array_equal(source.read_mask(sample), wanted[..., 0] % 2)


def test_a_channel_that_some_images_lack(tmp_path: Path) -> None:
    put(tmp_path, *CASES, *LABELLED)
    (tmp_path / "imagesTr/b_0001.png").unlink()
    source = FolderSource("binary", root=tmp_path)
    [problem] = source.problems()
    assert problem.startswith(
        f"1 of 3 images in {tmp_path / 'imagesTr'} lack the channel 0001: b.png. Add their files,"
        " such as b_0001.png, or"
    )
    assert typed(problem) == {"channel_files": '["0000","0002"]'}
    assert [sample.name for part in source.splits().values() for sample in part] == [
        "imagesTr/case_0000.png",
        "imagesTr/case_7.png",
    ]
    chosen = FolderSource("binary", root=tmp_path, channel_files=("0000", "0002"))
    assert read(chosen)["imagesTr/b.png"] == [7, 9]


def test_frames_of_a_sequence_are_no_channels(tmp_path: Path) -> None:
    names = [f"{n}_{number:04d}.png" for n in "ab" for number in range(2)]
    put(tmp_path, *(f"{side}/{name}" for name in names for side in ("images", "masks")))
    source = FolderSource("binary", root=tmp_path)
    assert sorted(read(source)) == [f"images/{name}" for name in names]
    assert source.channel_files == ()


@pytest.mark.parametrize("form", ["cell{}_{}", "{1}_cell{0}", "c{}{}", "cell{}-{}-raw"])
def test_channels_by_their_words(tmp_path: Path, form: str) -> None:
    """The message that refuses them proposes what reads them."""
    names = [f"images/{form.format(n, w)}.png" for n in range(3) for w in ("w10", "w2")]
    put(tmp_path, *names, *(f"masks/{form.format(n, '').strip('-_')}.png" for n in range(3)))
    if form == "cell{}-{}-raw":
        for path in sorted((tmp_path / "masks").iterdir()):
            path.rename(path.with_name(path.name.replace("--", "-")))
    [problem] = FolderSource("binary", root=tmp_path).problems()
    if "raw" not in form:
        assert "2 images belong to each mask" in problem
        assert typed(problem)["channel_files"] == "[w2,w10]"
    source = FolderSource("binary", root=tmp_path, channel_files=["w2", "w10"])
    assert sorted(read(source).values()) == [[2, 1], [4, 3], [6, 5]]


BANDS = ("red", "green", "nir")
CLOUDS = [f"train_{b}/{b}_patch_{n}_{n}.png" for n in range(3) for b in BANDS]


def test_a_pattern(tmp_path: Path) -> None:
    """The folders of 38-Cloud."""
    put(tmp_path, *CLOUDS, *(f"train_gt/gt_patch_{n}_{n}.png" for n in range(3)))
    patterns = {"image_pattern": "train_{channel}/{channel}_{id}.png"}
    patterns["mask_pattern"] = "train_gt/gt_{id}.png"
    source = FolderSource("binary", root=tmp_path, **patterns)
    assert source.channel_files == ("green", "nir", "red")
    assert read(source) == {
        f"train/patch_{n}_{n}.png": [3 * n + 2, 3 * n + 3, 3 * n + 1] for n in range(3)
    }
    ordered = FolderSource("binary", root=tmp_path, channel_files=BANDS, **patterns)
    assert read(ordered)["train/patch_1_1.png"] == [4, 5, 6]
    assert check(ordered, "binary").in_channels == 3


@pytest.mark.parametrize(
    ("images", "pattern", "names"),
    [
        ("scenes/{id}_{c}.png", "scenes/{id}_{channel}.png", ["scenes/x_0.png", "scenes/x_1.png"]),
        ("{id}/{c}.png", "{id}/{channel}.png", ["x_0.png", "x_1.png"]),
        ("{id}/{id}-{c}.png", "{id}/{id}-{channel}.png", ["x_0/x_0.png", "x_1/x_1.png"]),
        ("{c}/{id}.png", "{channel}/{id}.png", ["x_0.png", "x_1.png"]),
        ("1_{c}/{id}.png", "*_{channel}/{id}.png", ["1/x_0.png", "1/x_1.png"]),
    ],
)
def test_other_patterns(tmp_path: Path, images: str, pattern: str, names: list[str]) -> None:
    ids = ["x_0", "x_1"]
    put(tmp_path, *(images.format(id=i, c=c) for i in ids for c in ("B11", "B2")))
    put(tmp_path, *(f"masks/{i}.png" for i in ids))
    options = {"image_pattern": pattern, "mask_pattern": "masks/{id}.png"}
    source = FolderSource("binary", root=tmp_path, **options)
    assert source.channel_files == ("B2", "B11")
    assert read(source) == {names[0]: [2, 1], names[1]: [4, 3]}


def test_a_pattern_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for n in range(2):
        arrays = {name: np.full((6, 5), k + n, np.uint8) for k, name in enumerate(("red", "nir"))}
        np.savez(tmp_path / f"{n}.npz", **arrays)
        write_mask(tmp_path / f"masks/{n}.png", LABELS)
    options = {"image_pattern": "{id}.npz::{nir,red}", "mask_pattern": "masks/{id}.png"}
    source = FolderSource("binary", root=tmp_path, **options)
    assert read(source) == {"0.npz": [1, 0], "1.npz": [2, 1]}


def test_a_table(tmp_path: Path) -> None:
    put(tmp_path, "a_1.png", "a_2.png", "b_1.png", "b_2.png", "masks/a.png", "masks/b.png")
    table = tmp_path / "pairs.csv"
    table.write_text('image,mask\n"a_{2,1}.png",masks/a.png\n"b_{2,1}.png",masks/b.png\n')
    source = FolderSource("binary", pairs=table)
    assert read(source) == {"a.png": [2, 1], "b.png": [4, 3]}
    assert source.channel_files == ("2", "1")
    again = FolderSource("binary", pairs=table, channel_files=["2", "1"])  # as a run keeps it
    assert again.problems() == []
    other = FolderSource("binary", pairs=table, channel_files=["1", "2"])
    assert other.problems() == ["the channels in files of their own differ: 2, 1 and 1, 2"]
    table.write_text('image,mask\n"a_{2,3}.png",masks/a.png\nb.png,"masks/{a,b}.png"\na_{1,x\n')
    problems = FolderSource("binary", pairs=table).problems()
    assert problems[0] == f"pairs.csv, line 2: there is no file {tmp_path / 'a_3.png'}"
    assert problems[2].endswith("A path with commas is written in quotation marks")


def test_what_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "images/a_1.png", "masks/a.png")
    [problem, *_] = FolderSource("binary", root=tmp_path, channel_files=["red"]).problems()
    assert "is called like one of red (data.channel_files): there is a_1.png" in problem
    for names in (["a", "a"], ["a,b"], [""]):
        with pytest.raises(SegkitError, match="give each channel once"):
            FolderSource("binary", root=tmp_path, channel_files=names)
    patterns = {"image_pattern": "images/{id}_1.png", "mask_pattern": "masks/{id}.png"}
    with pytest.raises(SegkitError, match=r"data\.channel_files needs it"):
        FolderSource("binary", root=tmp_path, channel_files=["1"], **patterns).splits()
    patterns["mask_pattern"] = "masks/{id}_{channel}.png"
    with pytest.raises(SegkitError, match="the channels of images, and not of masks"):
        FolderSource("binary", root=tmp_path, **patterns).splits()
    with pytest.raises(SegkitError, match=r"not for data\.labels=coco"):
        FolderSource("binary", root=tmp_path, channel_files=["1"], labels="coco").splits()


def test_roots_with_other_channels(tmp_path: Path) -> None:
    for root, numbers in (("x", "01"), ("y", "02")):
        put(tmp_path / root, *(f"imagesTr/a_000{n}.png" for n in numbers), "labelsTr/a.png")
    source = FolderSource("binary", root=[tmp_path / "x", tmp_path / "y"])
    assert "the channels in files of their own differ: 0000, 0001 and 0000, 0002" in (
        source.problems()
    )


@pytest.mark.parametrize(
    ("path", "channels", "pattern", "expected"),
    [
        ("case_0001_0000.nii.gz", "0000 0001", "", f"case_0001_{MARK}.nii.gz"),
        ("test_red/red_1.tif", "red nir", "", f"test_{MARK}/{MARK}_1.tif"),
        ("test_red/x.tif", "red nir", "", f"test_{MARK}/x.tif"),
        ("hundred_red.tif", "red nir", "", f"hundred_{MARK}.tif"),
        ("T32B11.tif", "B1 B11", "", f"T32{MARK}.tif"),
        ("reddish.tif", "red nir", "", None),
        ("1_2.tif", "1 2", "{channel}_{id}.tif", f"{MARK}_2.tif"),
        ("t/1_2.tif", "1 2", "train/{id}_{channel}.tif", f"t/1_{MARK}.tif"),
        ("1-2.tif", "1 2", "{channel}_{id}.tif", None),
        ("red/1.tif", "red nir", "{channel}/{id}.tif", f"{MARK}/1.tif"),
    ],
)
def test_the_channel_in_a_path(
    path: str, channels: str, pattern: str, expected: str | None
) -> None:
    part = find_channel(path, channels.split(), pattern)
    assert (part and part[1]) == expected
    if part is not None:
        assert part[1].replace(MARK, part[0]) == path


def test_blocks_of_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of stacked bands are read by windows, and equal those of the whole."""
    import tifffile

    monkeypatch.setattr("segkit.data.file_reading.LARGE", 1000)
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 9000, (2, 96, 64)).astype(np.uint16)
    for name, band in zip(("B2", "B3"), bands, strict=True):
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"images/s_{name}.tif", band, tile=(16, 16))
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks/s.tif", (bands[0] > 4000).astype(np.uint8), tile=(16, 16))
    options = {"channel_files": ["B3", "B2"], "split": "tiles", "tile_size": 16}
    source = FolderSource("binary", root=tmp_path, **options)
    samples: list[Sample] = [s for part in source.splits().values() for s in part]
    large = source.measure_large(samples[0])
    assert large is not None
    assert large.shape[2] == 2
    for sample in samples:
        assert sample.window is not None
        top, left, height, width = sample.window
        whole = np.stack([bands[1], bands[0]], axis=2)[top : top + height, left : left + width]
        np.testing.assert_array_equal(source.read_image(sample), whole)
