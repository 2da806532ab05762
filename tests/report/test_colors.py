import numpy as np
import pytest

from segkit.report.colors import palette


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 60, 200])
def test_colors_are_distinct_and_the_same_each_time(n: int) -> None:
    colors = palette(n)
    assert len(colors) == len(set(colors)) == n
    assert colors == palette(n)
    assert all(isinstance(value, int) and 0 <= value <= 255 for c in colors for value in c)


def test_a_longer_palette_begins_with_the_shorter_one() -> None:
    assert palette(40)[:15] == palette(15)


def test_forty_colors_stay_visibly_apart() -> None:
    colors = np.array(palette(40), dtype=float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distance[~np.eye(40, dtype=bool)].min() > 30


def test_more_classes_than_colors_still_work() -> None:
    assert len(palette(6000)) == 6000
