from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.inference.tiles import reading_ahead
from segkit.inference.tiles.reading_ahead import read_ahead


class Strip:
    """A canvas of so many tiles, of which one may be broken."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken = count, broken
        self.asked: list[int] = []
        self.read_in: set[str] = set()

    def tiles(self):
        for number in range(self.count):
            self.asked.append(number)
            yield number

    def read(self, tile: int):
        self.read_in.add(threading.current_thread().name)
        if tile == self.broken:
            raise SegkitError(f"tile {tile} is broken")
        return np.full((4, 6), tile, np.float32)


NETWORKS = [SimpleNamespace(prepare=lambda window, k=k: window[None] * k) for k in (1, 10)]


def ahead(strip: Strip, batch: int, taken: list):
    with ThreadPoolExecutor(1, "reader") as thread:
        for tile, future in read_ahead(strip, NETWORKS, lambda shape: batch, thread):
            one, ten = future.result()
            assert one.shape == (1, 4, 6)
            taken.append((tile, float(one[0, 0, 0]), float(ten[0, 0, 0])))
            yield len(strip.asked) - len(taken)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_all_tiles_come_once_and_in_order_for_each_network(count, batch):
    strip, taken = Strip(count), []
    distances = list(ahead(strip, batch, taken))
    assert taken == [(k, k, 10 * k) for k in range(count)]
    assert strip.read_in == {"reader_0"}
    assert max(distances) <= batch  # no more is held than a batch
    assert max(distances) == min(batch, max(count - 2, min(count - 1, 1)))


def test_little_memory_is_a_single_tile(monkeypatch):
    monkeypatch.setattr(reading_ahead, "AHEAD_BYTES", 1)
    assert max(ahead(Strip(20), 8, [])) == 1


def test_an_error_comes_with_its_tile():
    strip, taken = Strip(20, broken=3), []
    with pytest.raises(SegkitError, match="tile 3 is broken"):
        list(ahead(strip, 4, taken))
    assert [tile for tile, *_ in taken] == [0, 1, 2]
    assert len(strip.asked) < 20
