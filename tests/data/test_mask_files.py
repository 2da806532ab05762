"""Masks as palettes, colours, JPEGs and ids: what a person sees is what is learned."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from segkit.core.errors import SegkitError
from segkit.core.labels import color_to_value, value_to_color
from segkit.data.checks.summary import DataSummary, check
from segkit.data.mask_files import fit_size, round_to_nearest
from segkit.data.sources.folder import FolderSource
from segkit.images.raster import decode_colors, encode_colors

H, W = 24, 32
BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def draw(number: int) -> np.ndarray:
    """Classes 0, 1 and 2."""
    labels = np.zeros((H, W), np.uint8)
    labels[2 + number : 12 + number, 3:20] = 1
    labels[8 : 15 + number, 16:30] = 2
    return labels


def put(root: Path, masks: list[Image.Image | np.ndarray], kind: str = "png", **save) -> Path:
    for number, mask in enumerate(masks):
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        image = draw(number) * 100
        Image.fromarray(image).save(root / f"images/{number}.png")
        picture = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
        picture.save(root / f"masks/{number}.{kind}", **save)
    return root


def paint(labels: np.ndarray, *colors: tuple[int, int, int]) -> np.ndarray:
    return np.array(colors, np.uint8)[labels]


def index(labels: np.ndarray, order: list[int], *colors: tuple[int, int, int]) -> Image.Image:
    """A picture with a palette whose index for each label is given."""
    picture = Image.fromarray(np.array(order, np.uint8)[labels]).convert("P")
    palette = np.zeros((max(order) + 1, 3), np.uint8)
    palette[order] = colors
    picture.putpalette(palette.tobytes())
    return picture


def run(root: Path, mode: str = "multiclass", **options) -> DataSummary:
    source = FolderSource(mode, root=root, **options)
    summary = check(source, mode, needed=("train",))
    for samples in summary.splits.values():
        for sample in samples:
            labels = summary.coding.encode(source.read_mask(sample))
            expected = draw(int(Path(sample.name).stem))
            if mode == "binary":
                expected = (expected > 0).astype(np.uint8)
            np.testing.assert_array_equal(labels, expected)
    return summary


def find_problems(root: Path, mode: str = "multiclass", **options) -> str:
    with pytest.raises(SegkitError) as caught:
        check(FolderSource(mode, root=root, **options), mode, needed=("train",))
    return str(caught.value)


# --- colours -------------------------------------------------------------------------------------


def test_values_of_colours() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (50, 3)).astype(np.uint8)
    colours[:20] = colours[:20, :1]
    values = encode_colors(colours)
    assert len(set(values.tolist())) == len(np.unique(colours, axis=0))
    np.testing.assert_array_equal(decode_colors(values), colours)
    for colour, value in zip(colours.tolist(), values.tolist(), strict=True):
        assert color_to_value(colour) == value
        assert value_to_color(value) == tuple(colour)
    assert color_to_value((0, 0, 7)) > 255  # no grey


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "webp"])
def test_colours_of_the_classes_decode_masks(tmp_path: Path, kind: str) -> None:
    save = {"lossless": True} if kind == "webp" else {}
    put(tmp_path, [paint(draw(n), BLACK, RED, BLUE) for n in range(4)], kind, **save)
    summary = run(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert summary.num_classes == 3
    assert "masks hold colours, which are read by data.class_colors" in summary.notes
    # in another order
    with pytest.raises(AssertionError):
        run(tmp_path, class_colors=(BLACK, BLUE, RED))


def test_greys_among_the_colours_of_the_classes(tmp_path: Path) -> None:
    """ISPRS: buildings are white, roads are grey."""
    grey = (128, 128, 128)
    put(tmp_path, [paint(draw(n), WHITE, grey, RED) for n in range(4)])
    run(tmp_path, class_colors=(WHITE, grey, RED))
    put(tmp_path / "b", [paint(draw(n), BLACK, grey, WHITE) for n in range(4)])
    run(tmp_path / "b", class_colors=(BLACK, grey, WHITE))
    put(tmp_path / "c", [draw(n) * 100 for n in range(4)])
    run(tmp_path / "c", class_colors=(BLACK, (100, 100, 100), (200, 200, 200)))


def test_colours_for_display_leave_masks_of_numbers_alone(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(4)])
    summary = run(tmp_path, class_colors=(BLACK, (1, 1, 1), RED))
    assert summary.coding.to_label == {}


def test_colours_that_are_found_are_proposed_with_their_shares(tmp_path: Path) -> None:
    put(tmp_path, [paint(draw(n), BLACK, RED, BLUE) for n in range(4)])
    text = find_problems(tmp_path)
    shares = {c: np.mean([(draw(n) == c).mean() for n in range(4)]) for c in (0, 1, 2)}
    for colour, label in (("#000000", 0), ("#ff0000", 1), ("#0000ff", 2)):
        assert f"{colour} {shares[label]:.2%}" in text
    proposed = text.partition("data.class_colors=")[2].partition("'")[0]
    colors = tuple(map(tuple, __import__("json").loads(proposed)))
    assert set(colors) == {BLACK, RED, BLUE}
    assert colors[0] == BLACK
    check(FolderSource("multiclass", root=tmp_path, class_colors=colors), "multiclass")


def test_a_colour_that_is_no_class(tmp_path: Path) -> None:
    put(tmp_path, [paint(draw(n), BLACK, RED, BLUE) for n in range(3)])
    text = find_problems(tmp_path, class_colors=(BLACK, RED))
    assert "3 of 3 masks (images/" in text
    assert ".png) hold #0000ff" in text
    assert "'data.class_colors=[[0,0,0],[255,0,0],[0,0,255]]'" in text
    assert f"'data.label_map={{{color_to_value(BLUE)}: 255}}'" in text
    options = {"class_colors": (BLACK, RED), "label_map": {color_to_value(BLUE): 255}}
    summary = check(FolderSource("multiclass", root=tmp_path, **options), "multiclass")
    assert summary.num_classes == 2
    text = find_problems(tmp_path, class_colors=(RED, BLUE))  # black is not label 0
    assert "hold #000000" in text


def test_soft_edges_are_many_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    put(tmp_path, [noise] * 3)
    assert "colours, 768 in all" in find_problems(tmp_path)


def test_transparent_pixels_of_a_mask_are_black(tmp_path: Path) -> None:
    masks = []
    for n in range(3):
        opacity = np.where(draw(n) > 0, 255, 0)[..., None]
        masks.append(np.dstack([paint(draw(n), WHITE, RED, BLUE), opacity]).astype(np.uint8))
    put(tmp_path, masks)
    run(tmp_path, class_colors=(BLACK, RED, BLUE))


def test_ids_in_colours(tmp_path: Path) -> None:
    put(tmp_path, [paint(draw(n), BLACK, (1, 2, 3), (7, 0, 200)) for n in range(4)])
    source = FolderSource("binary", root=tmp_path, instances=True)
    summary = check(source, "binary")
    assert summary.class_share[1] == pytest.approx(np.mean([draw(n) > 0 for n in range(4)]))


# --- palettes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "gif"])
def test_indices_of_the_same_palette_count(tmp_path: Path, kind: str) -> None:
    put(tmp_path, [index(draw(n), [0, 1, 2], BLACK, RED, BLUE) for n in range(4)], kind)
    summary = run(tmp_path)
    [note] = [note for note in summary.notes if "palette" in note]
    assert "4 masks have a palette; their indices count" in note


def test_a_palette_that_is_the_beginning_of_another_one_agrees(tmp_path: Path) -> None:
    masks = [index(draw(n), [0, 1, 2], BLACK, RED, BLUE) for n in range(3)]
    masks.append(index(draw(3), [0, 1, 2, 3], BLACK, RED, BLUE, GREEN))
    run(put(tmp_path, masks))


def test_palettes_that_differ_are_matched_by_colour(tmp_path: Path) -> None:
    orders = [[0, 1, 2], [2, 0, 1], [1, 0, 5], [0, 1, 2]]
    masks = [index(draw(n), order, BLACK, RED, BLUE) for n, order in enumerate(orders)]
    put(tmp_path, masks)
    summary = run(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert "masks with palettes are read by colour, not by index" in summary.notes
    assert "'data.class_colors=[[0,0,0]," in find_problems(tmp_path)  # or it stops


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_black_and_white_palettes_that_differ(tmp_path: Path, kind: str) -> None:
    masks = [
        index((draw(n) > 0).astype(int), [0, 1] if n % 2 else [1, 0], BLACK, WHITE)
        for n in range(4)
    ]
    put(tmp_path, masks, kind)
    run(tmp_path, "binary")


def test_colours_in_another_order_than_the_palette(tmp_path: Path) -> None:
    """The palette says that index 1 is blue, the user that class 1 is red."""
    put(tmp_path, [index(draw(n), [0, 2, 1], BLACK, RED, BLUE) for n in range(4)])
    run(tmp_path, class_colors=(BLACK, RED, BLUE))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_palettes_and_colours_in_one_set(tmp_path: Path, kind: str) -> None:
    masks = [index(draw(n), [0, 1, 2], BLACK, RED, BLUE) for n in range(3)]
    put(tmp_path, [*masks, paint(draw(3), BLACK, RED, BLUE)], kind)
    summary = run(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert "masks with palettes are read by colour, not by index" in summary.notes
    text = find_problems(tmp_path)
    assert "4 of 4 masks" in text
    assert "#010101" not in text


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
    assert f"data.mask_values=nearest with 'data.label_map={mapping}' takes the nearest" in text
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


def test_three_levels_with_a_binary_head(tmp_path: Path) -> None:
    put(tmp_path, [np.array([0, 128, 255], np.uint8)[draw(n)] for n in range(3)])
    assert "head=multiclass 'data.label_map={128: 1, 255: 2}' for 3 classes" in find_problems(
        tmp_path, "binary"
    )


# --- images that are turned, and opacity ---------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6])
def test_images_that_are_turned_while_their_masks_are_not(tmp_path: Path, orientation: int) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for n in range(3):
        (tmp_path / f"images/{n}.png").unlink()
        Image.fromarray(draw(n) * 100).save(tmp_path / f"images/{n}.jpg", exif=exif)
    if orientation == 6:
        assert "both must have the same size" in find_problems(tmp_path, "binary")
        assert "data.orientation=stored" in find_problems(tmp_path, "binary")
    else:
        summary = check(FolderSource("binary", root=tmp_path), "binary")
        [note] = [n for n in summary.notes if "EXIF" in n]
        assert note.startswith("3 images are turned by their EXIF orientation, their masks are not")
    source = FolderSource("binary", root=tmp_path, orientation="stored")
    summary = check(source, "binary")
    assert not [n for n in summary.notes if "EXIF" in n]
    for sample in summary.splits["train"]:
        image, mask = source.read_image(sample), source.read_mask(sample)
        assert image[mask > 0].min() > 50


def test_opaque_images_have_three_channels_and_transparent_pixels_are_ignored(
    tmp_path: Path,
) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    for n in range(3):
        colour = np.dstack([draw(n) * 100] * 3 + [np.full((H, W), 255)]).astype(np.uint8)
        if n == 2:
            colour[:, :4, 3] = 0
        Image.fromarray(colour).save(tmp_path / f"images/{n}.png")
    summary = check(FolderSource("binary", root=tmp_path, split="blocks"), "binary")
    assert summary.in_channels == 3
    assert summary.with_empty == {"images/2.png"}
    assert "1 images have an alpha channel, which is left out" in "".join(summary.notes)
    kept = check(FolderSource("binary", root=tmp_path, channels=4), "binary")
    assert (kept.in_channels, kept.with_empty) == (4, frozenset())


# --- georeferenced masks -------------------------------------------------------------------------


def write_geotiff(
    path: Path, values: np.ndarray, left: float = 0.0, crs: str = "EPSG:32633", **options
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "height": H, "width": W, "dtype": values.dtype}
    profile |= {"crs": crs, "transform": rasterio.Affine(2, 0, left, 0, -2, 0)}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(values, 1)


@pytest.mark.parametrize("nodata", [255, 9, 0])
def test_nodata_of_masks(tmp_path: Path, nodata: int) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        mask = draw(n)
        mask[20:] = nodata
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=nodata)
    source = FolderSource("multiclass", root=tmp_path)
    summary = check(source, "multiclass")
    assert summary.num_classes == 3
    assert f"masks have the nodata value {nodata}" in "".join(summary.notes)
    labels = summary.coding.encode(source.read_mask(summary.splits["train"][0]))
    assert (labels[20:] == (255 if nodata else 0)).all()
    assert set(np.unique(labels[:20])) == {0, 1, 2}


def test_masks_at_another_place(tmp_path: Path) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        write_geotiff(tmp_path / f"masks/{n}.tif", draw(n), left=16.0 if n == 1 else 0.0)
    text = find_problems(tmp_path)
    assert "images/1.tif and its mask" in text
    assert "lie at different places by their headers, up to 8 pixels apart" in text
    assert "images/0.tif" not in text
    write_geotiff(tmp_path / "masks/1.tif", draw(1), crs="EPSG:32634")
    assert "by their headers, in other coordinate systems" in find_problems(tmp_path)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_black_and_white_palettes_are_what_they_look_like(tmp_path: Path, order: list[int]) -> None:
    masks = [index((draw(n) > 0).astype(int), order, BLACK, WHITE) for n in range(3)]
    put(tmp_path, masks)
    run(tmp_path, "binary")


def test_ids_in_palettes_that_differ(tmp_path: Path) -> None:
    orders = [[0, 1, 2], [2, 0, 1], [1, 0, 5]]
    put(tmp_path, [index(draw(n), order, BLACK, RED, BLUE) for n, order in enumerate(orders)])
    source = FolderSource("binary", root=tmp_path, instances=True)
    summary = check(source, "binary")
    expected = np.mean([draw(n) > 0 for n in range(3)])
    assert summary.class_share[1] == pytest.approx(expected)


def test_rounding_keeps_zero_and_void() -> None:
    source = FolderSource(
        "multiclass", root=Path(), mask_values="nearest", label_map={128: 1, 255: 2}
    )
    assert source.nearest == (0, 128, 255)
    source = FolderSource("multiclass", root=Path(), mask_values="nearest", class_names=("a", "b"))
    assert source.nearest == (0, 1, 255)


def test_masks_with_the_fewest_bits_each(tmp_path: Path) -> None:
    """As an optimiser writes them: a file of 0 and 255 with 1 bit beside others of 8 bits."""
    masks = [np.array([0, 1, 2, 255], np.uint8)[draw(n)] for n in range(3)]
    put(tmp_path, masks)
    void = (draw(0) == 1) * np.uint8(255)
    Image.fromarray(void).convert("1").save(tmp_path / "masks/0.png")
    source = FolderSource("multiclass", root=tmp_path)
    summary = check(source, "multiclass", needed=())
    sample = next(s for part in summary.splits.values() for s in part if s.name == "images/0.png")
    np.testing.assert_array_equal(source.read_mask(sample), void)
    assert "masks have different bit depths and are read as greys" in summary.notes


def test_nodata_is_in_no_proposal_and_what_is_not_labelled_stays_so(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)])
    for n in range(3):
        (tmp_path / f"masks/{n}.png").unlink()
        mask = draw(n) * 85
        mask[20:], mask[22:] = 254, 33
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=254)
    text = find_problems(tmp_path, label_map={33: 255})
    assert "the masks have the values 0, 85, 170, which" in text
    assert "'data.label_map={85: 1, 170: 2, 33: 255}' for 3 classes" in text
    text = find_problems(tmp_path, "binary", label_map={33: 255})
    assert "head=multiclass 'data.label_map={85: 1, 170: 2, 33: 255}' for 3 classes" in text
    options = {"label_map": {85: 1, 170: 2, 33: 255}}
    assert (
        check(FolderSource("multiclass", root=tmp_path, **options), "multiclass").num_classes == 3
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_map": {1: 255}}, "hold 0 (background), 1 (not labelled); data.label_map says"),
        ({"mask_values": "nearest"}, "made all values one of 0, 255: name those of the masks"),
    ],
)
def test_options_that_hide_the_foreground_are_told(tmp_path: Path, options, words: str) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    text = find_problems(tmp_path, "binary", **options)
    assert "no training mask has a pixel of the class 'foreground'" in text
    assert words in text


def test_nodata_that_hides_the_foreground_is_told_with_the_notes(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)])
    for n in range(3):
        (tmp_path / f"masks/{n}.png").unlink()
        write_geotiff(tmp_path / f"masks/{n}.tif", (draw(n) > 0).astype(np.uint8), nodata=1)
    with pytest.raises(SegkitError) as caught:
        check(FolderSource("binary", root=tmp_path), "binary")
    assert "the masks hold no data (not labelled), 0 (background); remove the nodata" in str(
        caught.value
    )
    assert caught.value.__notes__ == [
        "note: masks have the nodata value 1: there is no label there"
    ]


def test_transparent_images_that_hide_the_foreground_are_told(tmp_path: Path) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    for n in range(3):
        image = np.dstack([paint(draw(n), RED, GREEN, BLUE), (draw(n) == 0) * 255])
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"images/{n}.png")
    text = find_problems(tmp_path, "binary")
    assert "the masks hold 0 (background); 2 images have pixels without data" in text


def test_more_colours_than_classes_are_proposed_as_one_line(tmp_path: Path) -> None:
    put(tmp_path, [paint(draw(n), BLACK, RED, BLUE) for n in range(3)])
    known = {"class_colors": (BLACK, RED), "class_names": ("background", "red car")}
    text = find_problems(tmp_path, "binary", **known)
    assert (
        "Add classes, head=multiclass 'data.class_colors=[[0,0,0],[255,0,0],[0,0,255]]'"
        ' \'data.class_names=[background,"red car","#0000ff"]\', or say'
    ) in text


# --- pixels without data -------------------------------------------------------------------------


def encode_all(source: FolderSource, mode: str = "multiclass") -> tuple[DataSummary, list]:
    summary = check(source, mode, needed=())
    samples = sorted((s for part in summary.splits.values() for s in part), key=lambda s: s.name)
    return summary, [summary.coding.encode(source.read_mask(sample)) for sample in samples]


@pytest.mark.parametrize("kind", ["mask", "alpha"])
@pytest.mark.parametrize("instances", [False, True])
def test_masked_pixels_of_a_label_raster_are_not_labelled(
    tmp_path: Path, kind: str, instances: bool
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    profile = {"driver": "GTiff", "height": H, "width": W, "dtype": "uint8", "crs": "EPSG:32633"}
    profile |= {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0), "count": 1 + (kind == "alpha")}
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        (tmp_path / "masks").mkdir(exist_ok=True)
        valid = np.full((H, W), 255, np.uint8)
        valid[:5, :8] = 0
        environment = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
        with environment, rasterio.open(tmp_path / f"masks/{n}.tif", "w", **profile) as file:
            file.write(draw(n), 1)
            if kind == "alpha":
                meaning = rasterio.enums.ColorInterp
                file.colorinterp = [meaning.gray, meaning.alpha]
                file.write(valid, 2)
            else:
                file.write_mask(valid)
        with rasterio.open(tmp_path / f"masks/{n}.tif") as file:
            np.testing.assert_array_equal(file.dataset_mask(), valid)
    mode = "binary" if instances else "multiclass"
    source = FolderSource(mode, root=tmp_path, instances=instances)
    summary, labels = encode_all(source, mode)
    for n in range(3):
        wanted = draw(n)
        wanted[:5, :8] = 255
        wanted = np.where(wanted == 2, 1, wanted) if instances else wanted
        np.testing.assert_array_equal(labels[n], wanted)
    assert "masks have pixels without data (mask, alpha, NaN)" in "".join(summary.notes)


def put_transparent(root: Path, mode: str, painted: bool) -> None:
    """Masks whose background is transparent, and black in the first rows if it is painted there."""
    masks = []
    for n in range(3):
        labels = (draw(n) > 0) * np.uint8(255)
        opacity = np.where(labels > 0, 255, 0).astype(np.uint8)
        opacity[:2] = 255 * painted
        labels = np.where(opacity > 0, labels, 200)  # what lies below is not seen
        colours = np.dstack([labels, opacity])
        if mode == "RGBA":
            colours = np.dstack([labels] * 3 + [opacity])
        masks.append(Image.fromarray(colours.astype(np.uint8), mode))
    put(root, masks)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_backgrounds(tmp_path: Path, mode: str) -> None:
    put_transparent(tmp_path / "a", mode, painted=False)
    summary = run(tmp_path / "a", "binary")
    assert "masks are transparent in places: this is read as black" in "".join(summary.notes)
    assert [summary.coding.value_of(label) for label in (0, 1)] == [0, 255]
    put_transparent(tmp_path / "b", mode, painted=True)
    text = find_problems(tmp_path / "b", "binary")
    assert "transparent pixels, which may be background or not labelled" in text
    assert "'data.label_map={-2: 0}'" in text
    run(tmp_path / "b", "binary", label_map={-2: 0})
    source = FolderSource("binary", root=tmp_path / "b", label_map={-2: 255})
    for n, labels in enumerate(encode_all(source, "binary")[1]):
        wanted = np.where(draw(n) > 0, 1, 255)
        wanted[:2] = draw(n)[:2] > 0
        np.testing.assert_array_equal(labels, wanted)
    options = {"instances": True, "label_map": {255: 1}}
    source = FolderSource("binary", root=tmp_path / "b", **options)
    summary, found = encode_all(source, "binary")
    np.testing.assert_array_equal(found[0], draw(0) > 0)
    assert "masks are transparent in places: no object is there" in summary.notes


def test_proposals_name_transparent_pixels_black(tmp_path: Path) -> None:
    opacity = np.where(draw(0) > 0, 255, 0).astype(np.uint8)
    put(tmp_path / "grey", [np.dstack([draw(0) * 100, opacity])])
    assert "'data.label_map={100: 1, 200: 2}' for 3 classes" in find_problems(tmp_path / "grey")
    put(tmp_path / "rgb", [np.dstack([paint(draw(0), BLACK, RED, BLUE), opacity])])
    assert "'data.class_colors=[[0,0,0],[255,0,0],[0,0,255]]'" in find_problems(tmp_path / "rgb")


def test_opaque_grey_and_alpha_are_grey(tmp_path: Path) -> None:
    put(tmp_path, [np.dstack([draw(n), np.full((H, W), 255, np.uint8)]) for n in range(3)])
    run(tmp_path)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_with_layers_alpha_is_a_class(tmp_path: Path, mode: str) -> None:
    layers = [np.dstack([draw(n) == c for c in (1, 2, 0, 1)][: len(mode)]) for n in range(3)]
    put(tmp_path, [Image.fromarray(layer * np.uint8(255), mode) for layer in layers])
    source = FolderSource("multilabel", root=tmp_path)
    for found, wanted in zip(encode_all(source, "multilabel")[1], layers, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_transparent_index_of_a_palette(tmp_path: Path) -> None:
    """By index it is an index; by colour it is what is not painted, and not the colour below."""
    masks = [index(draw(n), [0, 1, 2], WHITE, RED, BLUE) for n in range(3)]
    put(tmp_path / "a", masks, transparency=0)
    run(tmp_path / "a")
    put(tmp_path / "b", [index(draw(3), [2, 0, 1], WHITE, RED, BLUE)], transparency=2)
    for n in range(1, 3):
        mask = index(draw(n), [0, 1, 2], WHITE, RED, BLUE)
        mask.save(tmp_path / f"b/masks/{n}.png", transparency=0)
        Image.fromarray(draw(n)).save(tmp_path / f"b/images/{n}.png")
    source = FolderSource("multiclass", root=tmp_path / "b", class_colors=(BLACK, RED, BLUE))
    for labels, n in zip(encode_all(source)[1], (3, 1, 2), strict=True):
        np.testing.assert_array_equal(labels, draw(n))


def test_colours_of_16_bits(tmp_path: Path) -> None:
    put(tmp_path, [draw(0)] * 3)
    for n in range(3):
        colours = paint(draw(n), BLACK, RED, (0, 128, 255)).astype(np.uint16)
        (tmp_path / f"masks/{n}.png").unlink()
        tifffile.imwrite(tmp_path / f"masks/{n}.tif", colours * 257, photometric="rgb")
    run(tmp_path, class_colors=(BLACK, RED, (0, 128, 255)))
    tifffile.imwrite(tmp_path / "masks/1.tif", colours * 256, photometric="rgb")
    text = find_problems(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert "colours of 16 bits that 8 bits do not hold: save it as RGB with 8 bits" in text
    assert "multilabel" not in text
    greys = np.repeat((draw(1).astype(np.uint16) * 3)[..., None], 3, axis=2)
    tifffile.imwrite(tmp_path / "grey.tif", greys, photometric="rgb")
    put(tmp_path / "grey", [draw(1)])
    (tmp_path / "grey/masks/0.png").unlink()
    (tmp_path / "grey.tif").rename(tmp_path / "grey/masks/0.tif")
    source = FolderSource("multiclass", root=tmp_path / "grey", label_map={3: 1, 6: 2})
    np.testing.assert_array_equal(encode_all(source)[1][0], draw(1))


@pytest.mark.parametrize("nodata", [float(np.finfo(np.float32).min), float("nan"), -9999.0])
def test_masks_of_floats_without_labels_in_places(tmp_path: Path, nodata: float) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        mask = draw(n).astype(np.float32)
        mask[20:] = nodata
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=nodata)
    source = FolderSource("multiclass", root=tmp_path)
    for n, labels in enumerate(encode_all(source)[1]):
        wanted = draw(n)
        wanted[20:] = 255
        np.testing.assert_array_equal(labels, wanted)
    assert any("no label" in note for note in source.notes())
