"""Files written by windows: their content, whole or not at all, in little memory."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images.conftest import cut, noise, same

from segkit.core.errors import SegkitError
from segkit.images import window_writing
from segkit.images.reading import count_pages, read_image, read_mask
from segkit.images.window_writing import WindowFile, find_gap, halve, list_level_sizes
from segkit.images.windows import open_windows

SUFFIXES = [".tif", ".zarr"]
DTYPES = ["uint8", "uint16", "int32", "float32"]


def write(path: Path, values: np.ndarray, pyramid: bool = False, dtype: str | None = None) -> None:
    H, W = values.shape[-2:]
    with WindowFile(path, values.shape, dtype or values.dtype, pyramid=pyramid) as file:
        for top in range(0, H, 300):
            for left in range(0, W, 300):
                file.write(top, left, values[..., top : top + 300, left : left + 300])


def only(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@st.composite
def partitions(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[int, int, int, int]]]:
    """A size, and windows that cover it in any order; some of them overlap."""
    H, W = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    rows = sorted({0, H, *draw(st.lists(st.integers(1, H), max_size=4))})
    windows = []
    for top, bottom in pairwise(rows):
        columns = sorted({0, W, *draw(st.lists(st.integers(1, W), max_size=4))})
        for left, right in pairwise(columns):
            above, below = draw(st.integers(0, 5)), draw(st.integers(0, 5))
            windows.append((max(top - above, 0), left, min(bottom + below, H), right))
    return (H, W), draw(st.permutations(windows))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    partitions(),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from(DTYPES),
    st.sampled_from(SUFFIXES),
    st.booleans(),
)
def test_any_windows_in_any_order(tmp_path, monkeypatch, partition, stack, dtype, suffix, pyramid):
    (H, W), windows = partition
    monkeypatch.setattr(window_writing, "TILE", 16)  # so that there are many tiles
    monkeypatch.setattr(window_writing, "CHUNK", 16)
    monkeypatch.setattr(window_writing, "TOP", 20)
    values, path = noise(*stack, H, W, dtype=dtype), tmp_path / f"{dtype}{suffix}"
    with WindowFile(path, values.shape, dtype, pyramid=pyramid) as file:
        for top, left, bottom, right in windows:
            file.write(top, left, values[..., top:bottom, left:right])
    only(tmp_path, path.name)
    read = read_image if dtype == "float32" else read_mask
    pages = [read(path, page).reshape(H, W, -1) for page in range(count_pages(path))]
    layers = values.reshape(-1, H, W)
    np.testing.assert_array_equal(np.dstack(pages).transpose(2, 0, 1), layers)
    assert {page.dtype for page in pages} == {values.dtype}
    levels = read_levels(path, pyramid)
    assert len(levels) == len(list_level_sizes(H, W) if pyramid else [()])
    for level in levels:
        assert level.dtype == values.dtype
        np.testing.assert_array_equal(level.reshape(layers.shape), layers)
        layers = np.stack([halve(layer) for layer in layers])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_levels(path: Path, pyramid: bool) -> list[np.ndarray]:
    """The levels as other programs read them."""
    if path.is_dir():
        node = zarr.open(path, mode="r")
        if not pyramid:
            return [node[:]]
        datasets = node.attrs["ome"]["multiscales"][0]["datasets"]
        return [node[dataset["path"]][:] for dataset in datasets]
    with tifffile.TiffFile(path) as tif:
        if not pyramid:
            return [tif.asarray()]
        return [level.asarray() for level in tif.series[0].levels]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_windows_of_what_was_written(tmp_path: Path, suffix: str, dtype: str) -> None:
    values, path = noise(2, 1300, 1100), tmp_path / f"a{suffix}"
    write(path, values, pyramid=True, dtype=dtype)
    shown = values.transpose(1, 2, 0).astype("float32" if dtype == "int32" else dtype)
    with open_windows(path) as image:
        assert image.shape == (1300, 1100, 2)
        for window in ((0, 0, 100, 100), (500, 480, 100, 100), (1200, 1000, 100, 100)):
            same(image.read(*window), cut(shown, *window))


def test_tiff_for_other_programs(tmp_path: Path) -> None:
    values = noise(3, 1100, 600)
    write(tmp_path / "pages.TIFF", values)
    assert count_pages(tmp_path / "pages.TIFF") == 3  # as write_mask does it
    write(tmp_path / "pyramid.tif", values, pyramid=True)
    assert count_pages(tmp_path / "pyramid.tif") == 1
    with tifffile.TiffFile(tmp_path / "pyramid.tif") as tif:
        assert tif.is_ome
        assert not tif.is_bigtiff
        assert tif.series[0].axes == "CYX"
        assert [level.shape for level in tif.series[0].levels] == [
            (3, 1100, 600),
            (3, 550, 300),
            (3, 275, 150),
        ]
        page = tif.pages.first
        assert (page.tile, page.compression) == ((512, 512), tifffile.COMPRESSION.ADOBE_DEFLATE)
        assert [int(level.subfiletype) for level in page.pages] == [1, 1]


def test_a_large_tiff_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(600, 600)
    for limit, big in ((4 * 512 * 512, True), (5 * 512 * 512, False)):
        monkeypatch.setattr(window_writing, "_CLASSIC", limit)
        write(tmp_path / "a.tif", values)
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            assert tif.is_bigtiff == big
        same(read_mask(tmp_path / "a.tif"), values)


def test_zarr_for_other_programs(tmp_path: Path) -> None:
    write(tmp_path / "plain.zarr", noise(3, 1100, 600))
    plain = zarr.open_array(tmp_path / "plain.zarr", mode="r")
    assert plain.chunks == (1, 1024, 600)
    assert plain.metadata.dimension_names == ("c", "y", "x")
    write(tmp_path / "labels.zarr", noise(1100, 600), pyramid=True)
    write(tmp_path / "smooth.zarr", noise(3, 1100, 600, dtype="float32"), pyramid=True)
    for name, axes, shift in (("labels", "yx", None), ("smooth", "cyx", [0.0, 1.5, 1.5])):
        group = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")
        described = group.attrs["ome"]
        assert described["version"] == "0.5"
        (scales,) = described["multiscales"]
        assert [axis["name"] for axis in scales["axes"]] == list(axes)
        last = scales["datasets"][2]
        assert group[last["path"]].shape[-2:] == (275, 150)
        assert group[last["path"]].metadata.dimension_names == tuple(axes)
        scale, *moved = last["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [1.0] * (len(axes) - 2) + [4.0, 4.0]}
        assert [change["translation"] for change in moved] == ([shift] if shift else [])


def test_levels_of_a_pyramid() -> None:
    assert list_level_sizes(512, 512) == [(512, 512)]
    assert list_level_sizes(1, 1025) == [(1, 1025), (1, 513), (1, 257)]
    labels = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    np.testing.assert_array_equal(halve(labels), np.array([[1, 3], [7, 9]], np.uint8), strict=True)
    means = np.array([[3, 4.5], [7.5, 9]], np.float32)
    np.testing.assert_array_equal(halve(labels.astype(np.float32)), means, strict=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_threads_may_write_at_once(tmp_path: Path, suffix: str) -> None:
    values, path = noise(1200, 1200), tmp_path / f"a{suffix}"
    corners = [(top, left) for top in range(0, 1200, 90) for left in range(0, 1200, 70)]
    with WindowFile(path, values.shape, values.dtype) as file, ThreadPoolExecutor(8) as pool:
        done = pool.map(
            lambda at: file.write(*at, values[at[0] : at[0] + 90, at[1] : at[1] + 70]), corners
        )
        assert list(done) == [None] * len(corners)
    same(read_mask(path), values)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("pyramid", [False, True])
def test_an_old_file_is_replaced(tmp_path: Path, suffix: str, pyramid: bool) -> None:
    path = tmp_path / "folders" / "above" / f"a{suffix}"
    write(path, noise(700, 20), pyramid=not pyramid)
    write(path, noise(30, 600), pyramid=pyramid)
    same(read_mask(path), noise(30, 600))
    only(path.parent, path.name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_after_an_error_an_old_file_stays(tmp_path, suffix, error) -> None:
    def fail(path: Path) -> None:
        with WindowFile(path, (50, 50), "uint8") as file:
            file.write(0, 0, noise(50, 50))
            raise error

    write(tmp_path / f"old{suffix}", noise(30, 20))
    for name in ("old", "new"):
        with pytest.raises(type(error)):
            fail(tmp_path / f"{name}{suffix}")
    only(tmp_path, f"old{suffix}")
    same(read_mask(tmp_path / f"old{suffix}"), noise(30, 20))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_windows_must_cover_the_image(tmp_path: Path, suffix: str) -> None:
    def leave_a_gap() -> None:
        with WindowFile(tmp_path / f"a{suffix}", (50, 50), "uint8") as file:
            file.write(0, 0, noise(30, 50))
            file.write(40, 0, noise(10, 50))
            file.write(20, 0, noise(25, 20))

    with pytest.raises(SegkitError, match="no window has covered the rows 30 to 39, columns 20 to"):
        leave_a_gap()
    only(tmp_path)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=8),
)
def test_the_gap_that_is_found(size: tuple[int, int], windows: list[tuple[int, ...]]) -> None:
    uncovered, used = np.ones(size, bool), set()
    for window in windows:
        top, bottom = sorted(min(y, size[0]) for y in window[:2])
        left, right = sorted(min(x, size[1]) for x in window[2:])
        if top < bottom and left < right:
            used.add((top, left, bottom, right))
            uncovered[top:bottom, left:right] = False
    gap = find_gap(*size, used)
    assert (gap is None) == (not uncovered.any())
    if gap is not None:
        top, left, bottom, right = gap
        assert top < bottom <= size[0]
        assert left < right <= size[1]
        assert uncovered[top:bottom, left:right].all()


@pytest.mark.parametrize(
    ("top", "left", "block"),
    [
        (0, 0, np.zeros((51, 5), np.uint8)),
        (-1, 0, np.zeros((5, 5), np.uint8)),
        (46, 0, np.zeros((5, 5), np.uint8)),
        (0, 46, np.zeros((5, 5), np.uint8)),
        (0, 0, np.zeros((0, 5), np.uint8)),
        (0, 0, np.zeros((1, 5, 5), np.uint8)),
        (0, 0, np.zeros((5, 5), np.uint16)),
        (0, 0, np.zeros((5, 5), np.float32)),
    ],
)
def test_blocks_that_do_not_fit(tmp_path: Path, top: int, left: int, block: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    with (
        pytest.raises(SegkitError, match=r"a\.tif: .*does not fit into \(50, 50\) uint8"),
        WindowFile(path, (50, 50), "uint8") as file,
    ):
        file.write(top, left, block)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("kind", "side", "reason"),
    [
        ("folder", 5, "already exists"),
        ("below a file", 5, "cannot write"),
        ("no permission", 5, "cannot write .*Permission denied"),
        ("full disk", 10**7, r"needs 100000\.0 GB"),
    ],
)
def test_files_that_are_refused_before_the_work(tmp_path, suffix, kind, side, reason) -> None:
    path = tmp_path / f"a{suffix}"
    if kind == "folder":
        (path / "notes").mkdir(parents=True)
    elif kind == "below a file":
        path.write_text("")
        path = path / f"b{suffix}"
    user = os.geteuid()
    if kind == "no permission":
        tmp_path.chmod(0o500)
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
    before = sorted(tmp_path.rglob("*")) if os.geteuid() == user else []
    try:
        with pytest.raises(SegkitError, match=reason), WindowFile(path, (side, side), "uint8"):
            pytest.fail("must be refused before the work")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert sorted(tmp_path.rglob("*")) == before


FULL = """
import resource, signal, sys
import numpy as np
from segkit.images.window_writing import WindowFile
from segkit.core.errors import SegkitError

path, limit, early = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "early"
noise = np.random.default_rng(0).integers(0, 255, (1500, 1500), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with WindowFile(path, noise.shape, "uint8", pyramid=True) as file:
        if not early:
            file.write(0, 0, noise)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        file.write(0, 0, noise[:1, :1] if not early else noise)
except SegkitError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("suffix", "limit", "when"),
    [(".tif", 3000, "late"), (".zarr", 400_000, "late"), (".tif", 3000, "early")],
)
def test_a_disk_that_fills_up(tmp_path: Path, suffix: str, limit: int, when: str) -> None:
    """The system refuses to let files grow, which it reports as it reports a full disk."""
    pytest.importorskip("resource", reason="Windows has no such limit")
    path = tmp_path / f"a{suffix}"
    write(path, noise(30, 20))
    command = [sys.executable, "-c", FULL, str(path), str(limit), when]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # zarr's own threads may still be at it when Python ends
    said = [line for line in done.stderr.splitlines() if not line.lower().startswith("task")]
    assert said == []
    assert f"cannot write '{path}': File too large. Check" in done.stdout
    only(tmp_path, path.name)
    same(read_mask(path), noise(30, 20))


MEMORY = """
import resource, sys
import numpy as np
from segkit.images.window_writing import WindowFile
from segkit.images.windows import open_windows

path, height = sys.argv[1], int(sys.argv[2])
block = (np.indices((1000, 3000)).sum(0) // 40 % 3).astype(np.uint8)
with WindowFile(path, (height, 3000), "uint8", pyramid=True) as file:
    for top in range(0, height, 1000):
        file.write(top, 0, block)
with open_windows(path) as image:
    for top in range(0, height, 1000):
        for left in range(0, 3000, 1000):
            window = image.read(top, left, 1000, 1000)[..., 0]
            assert (window == block[:, left : left + 1000]).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_image(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("resource", reason="Windows has no such limit")
    peaks = []
    for height in (4_000, 40_000):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / f"{height}{suffix}"), str(height)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.15 * peaks[0]
