"""Masks in colours and palettes: what a person sees is what is learned."""

from pathlib import Path

import numpy as np
import pytest
from data.masks import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    H,
    W,
    draw,
    find_problems,
    index,
    paint,
    put,
    run,
)

from segkit.core.labels import color_to_value, value_to_color
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource
from segkit.images.raster import decode_colors, encode_colors

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
