"""Patterns of paths, and arrays in files."""

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from data.layouts import LABELS, found, notes, put

from segkit.core.errors import SegkitError
from segkit.data.layout.names import Pattern
from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource


def test_a_folder_for_each_sample(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path, f"tile_{n}/image.jpg", f"tile_{n}/mask.png", f"tile_{n}/notes.txt")
    options = {"image_pattern": "{id}/image.jpg", "mask_pattern": "{id}/mask.png"}
    divided = found(tmp_path, **options)
    assert sum(map(len, divided.values())) == 4
    [note] = notes(tmp_path, **options)
    assert "4 files" in note
    assert "(4 .txt)" in note


def test_patterns_with_splits_and_stars(tmp_path: Path) -> None:
    for split, n in (("train", 1), ("train", 2), ("validation", 1)):
        put(tmp_path, f"{split}/x/scene_{n}_a.jpg", f"{split}/y/{n}.png")
    options = {"image_pattern": "{split}/x/*_{id}_a.jpg", "mask_pattern": "{split}/y/{id}.png"}
    divided = found(tmp_path, **options)
    assert [len(divided[split]) for split in SPLITS] == [2, 1, 0]


@pytest.mark.parametrize("image", ["{id}_a.jpg", "{split}/{id}_a.jpg"])
def test_patterns_never_mix_the_official_splits(tmp_path: Path, image: str) -> None:
    for split, n in (("train", 3), ("val", 2)):
        for i in range(n):
            put(tmp_path, f"{split}/{i}_a.jpg", f"{split}/{i}_b.png")
    put(tmp_path, "test/0_a.jpg")
    options = {"image_pattern": image, "mask_pattern": image.replace("_a.jpg", "_b.png")}
    divided = found(tmp_path, **options)
    assert [len(divided[split]) for split in SPLITS] == [3, 2, 0]
    assert divided["val"] == ["val/0_a.jpg", "val/1_a.jpg"]
    left_out, *by_folders = notes(tmp_path, **options)
    assert left_out == "1 images for testing have no masks and are left out: test/0_a.jpg"
    if "split" not in image:
        assert by_folders == ["the samples are divided by their folders train, val"]


def test_patterns_that_do_not_match(tmp_path: Path) -> None:
    put(tmp_path, "a_rgb.jpg", "a_gt.png", "b_rgb.jpg", "c_gt.png")
    source = FolderSource(
        "binary", root=tmp_path, image_pattern="{id}_x.jpg", mask_pattern="{id}_gt.png"
    )
    [problem] = source.problems()
    assert "matches data.image_pattern={id}_x.jpg. There are 4 image files: a_gt.png" in problem
    source = FolderSource(
        "binary", root=tmp_path, image_pattern="{id}_rgb.jpg", mask_pattern="{id}_gt.png"
    )
    assert len(source.problems()) == 2
    assert "c_gt.png is a mask without an image" in source.problems()
    for options in ({"image_pattern": "{id}.jpg"}, {"mask_pattern": "{id}.png"}):
        with pytest.raises(SegkitError, match="belong together"):
            FolderSource("binary", root=tmp_path, **options)
    with pytest.raises(SegkitError, match=r"has no \{id\}"):
        found(tmp_path, image_pattern="a.jpg", mask_pattern="{id}.png")


def put_arrays(path: Path) -> None:
    """A file with an image, its mask and something else."""
    values = {"vol/raw": LABELS * 200, "vol/mask": LABELS, "other": LABELS[:2]}
    if path.suffix == ".h5":
        with pytest.importorskip("h5py", reason="the extra hdf5 is not installed").File(
            path, "w"
        ) as file:
            file.update(values)
    elif path.suffix == ".npz":
        np.savez(path, **values)
    else:
        group = zarr.create_group(path)
        for name, array in values.items():
            group.create_array(name, data=array)


@pytest.mark.parametrize("ending", [".h5", ".npz", ".zarr"])
def test_arrays_of_one_file(tmp_path: Path, ending: str) -> None:
    for n in range(3):
        put_arrays(tmp_path / f"{n}{ending}")
    put(tmp_path, "masks/0.png", "masks/1.png", "masks/2.png")
    raw = f"{{id}}{ending}::vol/raw"
    for mask in (f"{{id}}{ending}::vol/mask", "masks/{id}.png"):
        divided = found(tmp_path, image_pattern=raw, mask_pattern=mask)
        assert sorted(chain(*divided.values())) == [f"{n}{ending}" for n in range(3)]
    with pytest.raises(SegkitError, match=r"the name of an array\. List .* data\.pairs=FILE\.csv"):
        found(tmp_path, image_pattern=f"0{ending}::{{id}}", mask_pattern="{id}.png")
    lines = [f"{n}{ending}::vol/raw,{n}{ending}::vol/mask" for n in range(3)]
    for header in (["image,mask"], []):
        (tmp_path / "p.csv").write_text("\n".join([*header, *lines]))
        source = FolderSource("binary", pairs=tmp_path / "p.csv")
        samples = list(chain(*source.splits().values()))
        assert source.problems() == []
        assert sorted(sample.name for sample in samples) == [line.split(",")[0] for line in lines]
        for sample in samples:
            np.testing.assert_array_equal(source.read_image(sample)[..., 0], LABELS * 200)
            np.testing.assert_array_equal(source.read_mask(sample), LABELS)
    (tmp_path / "p.csv").write_text(f"image,mask\nno{ending}::raw,0{ending}::vol/mask")
    [problem] = FolderSource("binary", pairs=tmp_path / "p.csv").problems()
    assert problem.startswith("p.csv, line 2: there is no file ")


@pytest.mark.parametrize(
    ("shape", "read"),
    [((3, 64, 40), "(C, H, W)"), ((40, 64, 40), "(pages, H, W)"), ((64, 40, 3), "(H, W, C)")],
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5", ".zarr"])
def test_how_unnamed_axes_are_read_is_said(tmp_path: Path, ending: str, shape, read) -> None:
    def put_array(path: Path, values: np.ndarray, axes: str) -> None:
        path.parent.mkdir(exist_ok=True)
        if ending == ".npy":
            np.save(path, values)
        elif ending == ".npz":
            np.savez(path, values)
        elif ending == ".h5":
            with pytest.importorskip("h5py", reason="the extra hdf5 is not installed").File(
                path, "w"
            ) as file:
                file["a"] = values
                for dimension, axis in zip(file["a"].dims, axes, strict=False):
                    dimension.label = axis
        else:
            zarr.create_array(path, data=values, dimension_names=axes or None)

    image, mask = np.zeros(shape, np.uint8), np.zeros((64, 40), np.uint8)
    if read == "(pages, H, W)":
        mask = np.zeros(shape, np.uint8)
    for n in range(3):
        put_array(tmp_path / f"images/{n}{ending}", image, "")
        put_array(tmp_path / f"masks/{n}{ending}", mask, "")
    [note] = notes(tmp_path)
    masks = f", as {read} in 3 masks (0{ending} is {shape})" if mask.ndim == 3 else ""
    assert note == (
        f"axes of arrays that their files do not name are read as {read} in 3 images (0{ending} is"
        f" {shape}){masks}. If they mean something else, name them (HDF5, zarr, OME-TIFF), or save"
        " arrays as (pages, H, W, C)"
    )
    if ending in (".h5", ".zarr"):
        for n in range(3):
            shutil.rmtree(tmp_path / f"images/{n}.zarr", ignore_errors=True)
            put_array(
                tmp_path / f"images/{n}{ending}", image, {"(H, W, C)": "yxc"}.get(read, "cyx")
            )
        assert not [note for note in notes(tmp_path) if "images" in note]


def test_channels_that_viewers_show_as_pages_are_said(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path, f"masks/{n}.png")
        (tmp_path / "images").mkdir(exist_ok=True)
        values = np.zeros((*LABELS.shape, 5), np.uint8)
        tifffile.imwrite(tmp_path / f"images/{n}.tif", np.tile(values, (5, 5, 1)))
    [note] = notes(tmp_path)
    assert "are read as (H, W, C) in 3 images (0.tif is (30, 25, 5))" in note


def test_an_id_may_occur_twice_in_a_pattern() -> None:
    pattern = Pattern("{id}/images/{id}.png", "data.image_pattern")
    assert pattern.match("7/images/7.png") == ("7", "", "", "7/images/7.png", ())
    assert pattern.match("7/images/8.png") is None
    found = pattern.match("a.b/images/a.b.png")
    assert found == ("a.b", "", "", "a.b/images/a.b.png", ())
