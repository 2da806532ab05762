"""Mask files of single objects and of single classes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.labels.class_masks import ClassMasksFormat
from segkit.data.labels.drawing import draw_ids, draw_labels, draw_layers
from segkit.data.labels.object_masks import ObjectMasksFormat
from segkit.data.labels.tree import FileTree
from segkit.data.sources.folder import FolderSource

SIZE = (8, 9)


def put(root, name, *rectangle, value=255):
    """An image, or a mask with a rectangle of rows and columns."""
    values = np.zeros(SIZE, np.uint8)
    if rectangle:
        top, bottom, left, right = rectangle
        values[top:bottom, left:right] = value
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def read(kind, root):
    tree = FileTree(root)
    return kind.read(kind.find(tree), tree)


def open_mask(path):
    return np.array(Image.open(path)) > 0


# --- objects --------------------------------------------------------------------------------------


def test_the_masks_of_an_image_are_objects_by_name(tmp_path):
    put(tmp_path, "stage1_train/x/images/x.png")
    put(tmp_path, "stage1_train/x/masks/b.png", 0, 3, 0, 3)
    put(tmp_path, "stage1_train/x/masks/a.png", 5, 8, 5, 9, value=1)
    put(tmp_path, "stage1_train/y/images/y.png")
    (tmp_path / "stage1_train/y/masks").mkdir()
    put(tmp_path, "stage1_test/z/images/z.png")
    found = read(ObjectMasksFormat, tmp_path)
    assert (found.categories, found.problems) == (("object",), [])
    assert [(image.name, image.split) for image in found.images] == [
        ("stage1_train/x/images/x.png", "train"),
        ("stage1_train/y/images/y.png", "train"),
    ]
    assert found.notes == ["folders of masks are empty: their images show only the background (1)"]
    ids = draw_ids(found.images[0].read_shapes(SIZE), SIZE)
    for number, name in ((1, "a"), (2, "b")):
        mask = open_mask(tmp_path / f"stage1_train/x/masks/{name}.png")
        np.testing.assert_array_equal(ids == number, mask)


def test_a_folder_of_images_and_one_of_masks_are_no_objects(tmp_path):
    put(tmp_path, "a/images/x.png")
    put(tmp_path, "a/masks/x.png", 0, 3, 0, 3)
    put(tmp_path, "b/images/x.png")
    put(tmp_path, "b/images/y.png")
    put(tmp_path, "b/masks/1.png", 0, 3, 0, 3)
    put(tmp_path, "images/x.png")
    put(tmp_path, "masks/1.png", 0, 3, 0, 3)
    assert ObjectMasksFormat.find(FileTree(tmp_path)) == []


# --- classes --------------------------------------------------------------------------------------


def put_classes(root, by_class, place=""):
    for image in ("1", "2"):
        put(root, f"{place}images/{image}.png")
    for label, image, rectangle in (
        ("road", "1", (0, 4, 0, 4)),
        ("car", "1", (2, 6, 2, 6)),
        ("car", "2", (0, 2, 0, 2)),
        ("background", "2", (0, 1, 0, 1)),
    ):
        folder, name = (label, image) if by_class else (image, label)
        put(root, f"{place}masks/{folder}/{name}.png", *rectangle)


def check_classes(found, root):
    assert (found.categories, found.problems) == (("car", "road"), [])
    labels = draw_labels(found.images[0].read_shapes(SIZE), SIZE, 2)
    expected = np.zeros(SIZE, np.uint8)
    expected[2:6, 2:6] = 1
    expected[:4, :4] = 2
    np.testing.assert_array_equal(labels, expected)
    layers = draw_layers(found.images[0].shapes, SIZE, 2)
    assert layers[3, 3].tolist() == [1, 1]


def test_folders_of_classes(tmp_path):
    put_classes(tmp_path, by_class=True)
    found = read(ClassMasksFormat, tmp_path)
    check_classes(found, tmp_path)
    assert [image.name for image in found.images] == ["images/1.png", "images/2.png"]


def test_folders_of_images(tmp_path):
    for split in ("train", "val"):
        put_classes(tmp_path, by_class=False, place=f"{split}/")
    found = read(ClassMasksFormat, tmp_path)
    check_classes(found, tmp_path)
    assert [(image.name, image.split) for image in found.images] == [
        ("train/images/1.png", "train"),
        ("train/images/2.png", "train"),
        ("val/images/1.png", "val"),
        ("val/images/2.png", "val"),
    ]


def read_classes(root):
    """The classes of images by name, where masks say so by their names."""
    source = FolderSource("multiclass", root, labels="class_masks")
    assert source.problems() == []
    samples = [sample for part in source.splits().values() for sample in part]
    names = source.class_names or ()
    return {
        sample.name: {names[label] for label in np.unique(source.read_mask(sample))}
        for sample in samples
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}_{}.png"),
        ("images/{}.png", "masks/{}_mask_{}.png"),
        ("images/{}.png", "masks/{}.{}.png"),
        ("images/{}_image.png", "masks/{}_{}.png"),
        ("JPEGImages/{}.png", "SegmentationClass/{}-{}.png"),
        ("train/images/{}.png", "train/masks/{}_{}.png"),
        ("images/train/{}.png", "masks/train/{}_{}.png"),
    ],
)
def test_files_of_classes_by_name(tmp_path, image, mask):
    for name in ("s_1", "s_1_1", "s_11"):
        put(tmp_path, image.format(name))
        put(tmp_path, mask.format(name, "road"), 0, 4, 0, 4)
    put(tmp_path, mask.format("s_1_1", "left-car"), 4, 8, 4, 8)
    assert read_classes(tmp_path) == {
        image.format("s_1"): {"background", "road"},
        image.format("s_1_1"): {"background", "road", "left-car"},
        image.format("s_11"): {"background", "road"},
    }


def test_files_of_classes_by_name_before_the_image(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"images/{name}.png")
        put(tmp_path, f"masks/road_{name}.png", 0, 4, 0, 4)
        put(tmp_path, f"masks/car_{name}.png", 4, 5, 4, 5)
    assert read_classes(tmp_path)["images/b.png"] == {"background", "road", "car"}


def test_files_that_name_no_image_and_class_are_problems(tmp_path):
    put(tmp_path, "images/a.png")
    for mask in ("a_road", "a", "b_road"):
        put(tmp_path, f"masks/{mask}.png", 0, 4, 0, 4)
    assert FolderSource("multiclass", tmp_path, labels="class_masks").problems() == [
        f"masks/{mask}.png: its name is not that of an image and of a class, as NAME_CLASS"
        for mask in ("a", "b_road")
    ]


@pytest.mark.parametrize(
    "folders",
    [
        ("images", "masks"),
        ("1. Original Images/a. Training Set", "2. All Segmentation Groundtruths/a. Training Set"),
    ],
)
def test_folders_of_classes_whose_files_have_a_suffix(tmp_path, folders):
    """As of IDRiD; not all lesions occur in all images."""
    images, masks = folders
    for name in ("IDRiD_01", "IDRiD_02"):
        put(tmp_path, f"{images}/{name}.jpg")
        put(tmp_path, f"{masks}/1. Microaneurysms/{name}_MA.tif", 0, 3, 0, 3)
    put(tmp_path, f"{masks}/4. Soft Exudates/IDRiD_02_SE.tif", 5, 8, 5, 8)
    source = FolderSource("multiclass", tmp_path, images=images, masks=masks)
    assert source.problems() == []
    assert source.class_names == ("background", "1. Microaneurysms", "4. Soft Exudates")
    samples = sorted(source.splits()["train"] + source.splits()["val"], key=lambda s: s.name)
    expected = np.zeros(SIZE, np.uint8)
    expected[:3, :3] = 1
    np.testing.assert_array_equal(source.read_mask(samples[0]), expected)
    expected[5:8, 5:8] = 2
    np.testing.assert_array_equal(source.read_mask(samples[1]), expected)


def test_folders_of_splits_are_no_classes(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        put(tmp_path, f"images/{name}.png")
        put(tmp_path, f"masks/{split}/{name}_mask.png", 0, 3, 0, 3)
    assert ClassMasksFormat.find(FileTree(tmp_path)) == []


def test_later_names_cover_earlier_ones(tmp_path):
    put(tmp_path, "images/1.png")
    for label in ("car-2", "car"):  # as paths in the other order
        put(tmp_path, f"masks/{label}/1.png", 0, 4, 0, 4)
    found = read(ClassMasksFormat, tmp_path)
    assert found.categories == ("car", "car-2")
    assert draw_labels(found.images[0].shapes, SIZE, 2)[0, 0] == 2


def test_what_may_mean_something_else_is_not_taken(tmp_path):
    # a mask for each image, in the same sub-folders
    put(tmp_path, "a/images/car/1.png")
    put(tmp_path, "a/images/1.png")
    put(tmp_path, "a/masks/car/1.png", 0, 1, 0, 1)
    # objects with numbers
    put(tmp_path, "b/images/1.png")
    put(tmp_path, "b/masks/1/7.png", 0, 1, 0, 1)
    # names that do not come back
    for name in ("1", "2"):
        put(tmp_path, f"c/images/{name}.png")
        put(tmp_path, f"c/masks/{name}/x{name}.png", 0, 1, 0, 1)
    # the class at the end of the name
    put(tmp_path, "d/images/1.png")
    put(tmp_path, "d/masks/1_car.png", 0, 1, 0, 1)
    assert ClassMasksFormat.find(FileTree(tmp_path)) == []


def test_masks_without_an_image_and_images_twice_are_problems(tmp_path):
    put_classes(tmp_path, by_class=True)
    put(tmp_path, "masks/car/3.png", 0, 1, 0, 1)
    put(tmp_path, "images/2.jpg")
    put(tmp_path, "images/4.png")
    found = read(ClassMasksFormat, tmp_path)
    assert found.problems == [
        "several images have the same name: images/2.jpg, images/2.png",
        "masks/car/3.png: it is the mask of no image",
    ]
    assert [image.name for image in found.images] == ["images/1.png"]
    assert "images/4.png" in found.notes[0]


# --- files ----------------------------------------------------------------------------------------

INSIDE = np.zeros(SIZE, np.uint8)
INSIDE[1:5, 2:8] = 1


def save_palette(path, order, *colors):
    picture = Image.fromarray(np.array(order, np.uint8)[INSIDE]).convert("P")
    palette = np.zeros((max(order) + 1, 3), np.uint8)
    palette[order] = colors
    picture.putpalette(palette.tobytes())
    picture.save(path)


def save_rgba(path):
    opaque = Image.fromarray(INSIDE * 255)
    picture = Image.new("RGBA", SIZE[::-1], (255, 255, 255, 0))
    picture.paste(Image.new("RGBA", SIZE[::-1], (200, 30, 0, 255)), mask=opaque)
    picture.save(path)


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
SAVE = {
    "palette": lambda path: save_palette(path, [0, 1], BLACK, RED),
    "palette, black last": lambda path: save_palette(path, [1, 0], BLACK, WHITE),
    "one bit": lambda path: Image.fromarray(INSIDE * 255).convert("1").save(path),
    "white is zero": lambda path: tifffile.imwrite(
        path.with_suffix(".tif"), INSIDE == 0, photometric="miniswhite", bitspersample=1
    ),
    "colour": lambda path: Image.fromarray(INSIDE[..., None] * np.uint8(RED)).save(path),
    "transparent": save_rgba,
    "grey of 16 bits": lambda path: Image.fromarray(INSIDE * np.uint16(65535)).save(path),
}


@pytest.mark.parametrize("kind", list(SAVE))
@pytest.mark.parametrize("by_object", [True, False])
def test_what_a_viewer_shows_black_is_no_object(tmp_path, kind, by_object):
    folder = tmp_path / ("x" if by_object else "")
    put(folder, "images/x.png")
    place = folder / ("masks/1.png" if by_object else "masks/cell/x.png")
    place.parent.mkdir(parents=True)
    SAVE[kind](place)
    found = read(ObjectMasksFormat if by_object else ClassMasksFormat, tmp_path)
    assert found.problems == []
    drawn = draw_labels(found.images[0].read_shapes(SIZE), SIZE, 1)
    np.testing.assert_array_equal(drawn, INSIDE)
    (file,) = place.parent.iterdir()
    shown = np.array(Image.open(file).convert("RGBA")).astype(int)
    if kind != "grey of 16 bits":  # which Pillow converts to something else
        np.testing.assert_array_equal((shown[..., :3].sum(axis=2) * shown[..., 3]) > 0, INSIDE)


def test_masks_with_loss_or_nodata_are_refused(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    put(tmp_path, "images/x.png")
    path = tmp_path / "masks/cell"
    path.mkdir(parents=True)
    Image.fromarray(INSIDE * 255).save(path / "x.jpg")
    found = read(ClassMasksFormat, tmp_path).images[0].read_shapes(SIZE)
    with pytest.raises(SegkitError, match=r"x\.jpg is compressed with loss.*save .* as PNG"):
        draw_labels(found, SIZE, 1)
    (path / "x.jpg").unlink()
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "dtype": "uint8", "count": 1}
    profile |= {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(path / "x.tif", "w", nodata=9, **profile) as file:
        file.write(np.where(INSIDE, 1, 9).astype(np.uint8), 1)
    found = read(ClassMasksFormat, tmp_path).images[0].read_shapes(SIZE)
    with pytest.raises(SegkitError, match=r"x\.tif has pixels without data"):
        draw_labels(found, SIZE, 1)
