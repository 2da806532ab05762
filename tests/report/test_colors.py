import numpy as np
import pytest

from segkit.report.colors import choose_colors


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 60, 200])
def test_colors_are_distinct_and_the_same_each_time(n: int) -> None:
    colors = choose_colors(n)
    assert len(colors) == len(set(colors)) == n
    assert colors == choose_colors(n) == choose_colors(n + 9)[:n]
    assert all(isinstance(value, int) and 0 <= value <= 255 for c in colors for value in c)


def test_forty_colors_stay_visibly_apart() -> None:
    colors = np.array(choose_colors(40), dtype=float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distance[~np.eye(40, dtype=bool)].min() > 30
    assert len(choose_colors(6000)) == 6000  # they repeat
