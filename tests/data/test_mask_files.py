"""Masks with loss, of another size and of ids: what a person sees is what is learned."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from data.masks import (
    BLACK,
    BLUE,
    RED,
    H,
    W,
    draw,
    encode_all,
    find_problems,
    paint,
    put,
    run,
)
from PIL import Image, ImageFilter

from segkit.core.errors import SegkitError
from segkit.core.labels import color_to_value
from segkit.data.checks.summary import check
from segkit.data.mask_files import fit_size, round_to_nearest
from segkit.data.sources.folder import FolderSource
from segkit.images.raster import encode_colors

# --- lossy files and sizes -----------------------------------------------------------------------


def test_masks_with_loss_are_refused_or_rounded(tmp_path: Path) -> None:
    put(
        tmp_path,
        [paint(draw(n), BLACK, RED, BLUE) for n in range(4)],
        "jpg",
        quality=95,
        subsampling=0,
    )
    text = find_problems(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert "compressed with loss" in text
    assert "data.mask_values=nearest" in text
    assert "instances" not in text
    source = FolderSource(
        "multiclass", root=tmp_path, class_colors=(BLACK, RED, BLUE), mask_values="nearest"
    )
    summary = check(source, "multiclass")
    for sample in summary.splits["train"]:
        labels = summary.coding.encode(source.read_mask(sample))
        assert (labels != draw(int(Path(sample.name).stem))).mean() < 0.02


@pytest.mark.parametrize("kind", ["jpg", "webp", "tif"])
def test_black_and_white_with_loss(tmp_path: Path, kind: str) -> None:
    masks = [(draw(n) > 0).astype(np.uint8) * 255 for n in range(4)]
    put(tmp_path, masks, kind, **({"compression": "jpeg"} if kind == "tif" else {"quality": 60}))
    assert "compressed with loss" in find_problems(tmp_path, "binary")
    source = FolderSource("binary", root=tmp_path, mask_values="nearest")
    summary = check(source, "binary")
    for sample in summary.splits["train"]:
        labels = summary.coding.encode(source.read_mask(sample))
        assert (labels != (draw(int(Path(sample.name).stem)) > 0)).mean() < 0.01


def test_soft_edges_are_rounded(tmp_path: Path) -> None:
    soft = [
        np.asarray(
            Image.fromarray((draw(n) > 0) * np.uint8(255)).resize((W, H)).rotate(1, Image.BICUBIC)
        )
        for n in range(3)
    ]
    put(tmp_path, soft)
    assert "mask_values=nearest" in find_problems(tmp_path, "binary")
    check(FolderSource("binary", root=tmp_path, mask_values="nearest"), "binary")


def smooth(mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8)))


@pytest.mark.parametrize("levels", [(0, 127, 255), (0, 60, 120), (0, 10, 20), (0, 4, 8)])
def test_greys_of_soft_edges_are_no_classes(tmp_path: Path, levels: tuple[int, ...]) -> None:
    masks = [np.array(levels)[draw(n)] for n in range(3)]
    put(tmp_path, [smooth(mask) for mask in masks])
    text = find_problems(tmp_path)
    assert "are nowhere 3 pixels wide and lie between others, as those of soft edges do" in text
    mapping = {levels[1]: 1, levels[2]: 2}
    assert (
        f"data.mask_values=nearest with 'data.label_map={mapping}' for 3 classes takes the nearest"
        in text
    )
    assert "soft edges" in find_problems(tmp_path, "binary")
    source = FolderSource("multiclass", tmp_path, mask_values="nearest", label_map=mapping)
    summary, found = encode_all(source)
    for labels, mask in zip(found, masks, strict=True):
        assert (labels != np.searchsorted(levels, mask)).mean() < 0.15
    [note] = [note for note in summary.notes if "nearest" in note]
    soft = np.stack([smooth(mask) for mask in masks]).astype(int)
    away = np.abs(soft[..., None] - levels).min(axis=-1)
    assert f"moves {(away > 0).mean():.2%} of the pixels of masks to one of the" in note
    assert f"by up to {away.max()}." in note
    assert "An edge between two classes may become a class whose value lies between" in note


def test_greys_of_soft_edges_are_no_objects(tmp_path: Path) -> None:
    masks = [np.array((0, 127, 254))[draw(n)] for n in range(3)]
    put(tmp_path, [smooth(mask) for mask in masks])
    notes = check(FolderSource("binary", tmp_path, instances=True), "binary").notes
    [note] = [note for note in notes if "soft edges" in note]
    assert note.startswith("in 2 of 2 masks (images/")
    put(tmp_path, [mask.astype(np.uint8) for mask in masks])
    notes = check(FolderSource("binary", tmp_path, instances=True), "binary").notes
    assert not [note for note in notes if "soft edges" in note]


def test_a_few_thin_classes_are_noted_and_declared_ones_are_not(tmp_path: Path) -> None:
    masks = [draw(n) * np.uint8(3) for n in range(3)]  # 0, 3 and 6
    for mask in masks:
        mask[2], mask[6] = 1, 2
    put(tmp_path, masks)
    notes = check(FolderSource("multiclass", tmp_path), "multiclass").notes
    [note] = [note for note in notes if "nowhere" in note]
    assert note.startswith("the mask values 1, 2 are nowhere 3 pixels wide")
    named = FolderSource("multiclass", tmp_path, class_names=tuple("abcdefg"))
    assert not [note for note in check(named, "multiclass").notes if "nowhere" in note]


def test_ids_in_a_jpeg_cannot_be_told(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)], "jpg", quality=95)
    options = {"mask_values": "nearest", "class_names": ("a", "b", "c")}
    text = find_problems(tmp_path, **options)
    assert "changes values by more than the known values 0, 1, 2, 255 differ" in text
    with pytest.raises(SegkitError, match="ids of objects are read as they are"):
        FolderSource("binary", tmp_path, mask_values="nearest", instances=True)


def test_rounding() -> None:
    values = np.array([[0, 90, 130], [254, 255, 200]], np.uint8)
    assert round_to_nearest(values, (0, 255))[0].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert round_to_nearest(values, (0, 100, 200))[0].tolist() == [[0, 100, 100], [200, 200, 200]]
    colours = encode_colors(np.array([[250, 10, 0], [10, 0, 240], [90, 90, 90]], np.uint8))
    known = [color_to_value(c) for c in (BLACK, RED, BLUE)]
    assert round_to_nearest(colours, known)[0].tolist() == [known[1], known[2], known[0]]
    with pytest.raises(
        SegkitError, match=r"data\.class_colors, data\.label_map or data\.class_names"
    ):
        FolderSource("multiclass", root=Path(), mask_values="nearest")


def test_masks_of_another_size(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)])
    for n in range(3):
        Image.fromarray(draw(n).repeat(3, 0).repeat(3, 1)).save(tmp_path / f"masks/{n}.png")
    assert "both must have the same size" in find_problems(tmp_path)
    run(tmp_path, resize_masks=True)
    for n in range(3):  # smaller ones
        Image.fromarray(draw(n)[::2, ::2]).save(tmp_path / f"masks/{n}.png")
    source = FolderSource("multiclass", root=tmp_path, resize_masks=True)
    assert check(source, "multiclass").num_classes == 3
    assert fit_size(np.array([[1, 2]]), (2, 4)).tolist() == [[1, 1, 2, 2]] * 2


# --- ids -----------------------------------------------------------------------------------------


def test_255_among_ids(tmp_path: Path) -> None:
    ids = [draw(n).astype(np.uint8) for n in range(3)]
    for mask in ids:
        mask[2] = np.where(mask[2] > 0, 255, 0)
    put(tmp_path / "void", ids)
    options = {"root": tmp_path / "void", "instances": True}
    summary = check(FolderSource("binary", **options), "binary")
    assert summary.coding.to_label[255] == 255
    assert "255 means 'not labelled', not an object" in "".join(summary.notes)
    summary = check(FolderSource("binary", label_map={255: 1}, **options), "binary")
    assert summary.coding.label_of(255) == 1
    many = [np.arange(H * W).reshape(H, W).astype(np.uint16) % 300 for _ in range(3)]
    for n, mask in enumerate(many):
        (tmp_path / "many/masks").mkdir(parents=True, exist_ok=True)
        (tmp_path / "many/images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"many/masks/{n}.tif", mask)
        Image.fromarray(draw(n)).save(tmp_path / f"many/images/{n}.png")
    summary = check(FolderSource("binary", root=tmp_path / "many", instances=True), "binary")
    assert summary.coding.label_of(255) == 1


# --- proposals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "proposals"),
    [
        ((0, 85, 170), ["'data.label_map={85: 1, 170: 2}' for 3 classes"]),
        (
            (0, 128, 255),
            [
                "'data.label_map={128: 1, 255: 2}' for 3 classes",
                "'data.label_map={128: 1}' for 2 classes with 255 as 'not labelled'",
            ],
        ),
        ((10, 20, 30), ["'data.label_map={10: 0, 20: 1, 30: 2}' for 3 classes"]),
    ],
)
def test_grey_levels_are_proposed_as_labels(tmp_path: Path, levels, proposals) -> None:
    put(tmp_path, [np.array(levels, np.uint8)[draw(n)] for n in range(3)])
    text = find_problems(tmp_path)
    for proposal in proposals:
        assert proposal in text
    mapping = {
        int(k): int(v)
        for k, v in (
            p.split(":") for p in proposals[0].partition("{")[2].partition("}")[0].split(",")
        )
    }
    run(tmp_path, label_map=mapping)


@pytest.mark.parametrize(
    ("levels", "proposal"),
    [
        ((0, 1, 15, 255), "'data.label_map={15: 2}' for 3 classes with 255 as 'not labelled'"),
        (
            (0, 7, 26, 255),
            "'data.label_map={7: 1, 26: 2}' for 3 classes with 255 as 'not labelled'",
        ),
        ((0, 1, 2, 255), "head=multiclass for 3 classes with 255 as 'not labelled'"),
    ],
)
def test_255_after_small_numbers_is_proposed_as_not_labelled(
    tmp_path: Path, levels, proposal
) -> None:
    values = np.array(levels, np.uint8)[np.arange(H * W).reshape(H, W) % 4]
    put(tmp_path, [values] * 3)
    texts = [find_problems(tmp_path, "binary")]
    if levels[2] > 2:
        texts.append(find_problems(tmp_path))
    assert all(proposal in text and "255: 3" not in text for text in texts)
    source = FolderSource(
        "multiclass", root=tmp_path, label_map={v: i for i, v in enumerate(levels[:-1])}
    )
    labels = check(source, "multiclass").coding.encode(values)
    np.testing.assert_array_equal(
        labels, np.array([0, 1, 2, 255])[np.arange(H * W) % 4].reshape(H, W)
    )


def test_three_levels_with_a_binary_head(tmp_path: Path) -> None:
    put(tmp_path, [np.array([0, 128, 255], np.uint8)[draw(n)] for n in range(3)])
    assert "head=multiclass 'data.label_map={128: 1, 255: 2}' for 3 classes" in find_problems(
        tmp_path, "binary"
    )
