"""PNM as Pillow and OpenCV write it, compared with their reading."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from images.conftest import noise
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import read_extent, read_image, read_mask

H, W = 7, 13


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("ending", ["pgm", "ppm"])
def test_greys_and_colours(tmp_path: Path, ending: str, dtype: str, is_text: bool) -> None:
    values = noise(H, W, *[3] * (ending == "ppm")).astype(dtype) * (257 if dtype == "uint16" else 1)
    path = tmp_path / f"a.{ending}"
    assert cv2.imwrite(str(path), values, [cv2.IMWRITE_PXM_BINARY, int(not is_text)])
    image = read_image(path)
    assert image.dtype == dtype
    expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).reshape(H, W, -1)
    np.testing.assert_array_equal(image, expected[..., ::-1])  # OpenCV's order is B, G, R
    assert read_extent(path) == (H, W, image.shape[2])
    np.testing.assert_array_equal(read_image(path.read_bytes()), image)  # as it is uploaded


def test_bits(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W) > 99).save(tmp_path / "a.pbm")
    shown = np.asarray(Image.open(tmp_path / "a.pbm"))
    rows = "\n".join("".join("01"[not white] for white in row) for row in shown.tolist())
    (tmp_path / "text.pbm").write_text(f"P1\n# by hand\n{W} {H}\n{rows}\n")
    for name in ("a.pbm", "text.pbm"):
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], shown * 255)
        np.testing.assert_array_equal(read_mask(tmp_path / name), shown)


def test_labels_up_to_a_small_largest_value_stay(tmp_path: Path) -> None:
    labels = noise(H, W) % 3
    (tmp_path / "a.pgm").write_bytes(b"P5 # labels\n%d %d 2\n" % (W, H) + labels.tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "a.pgm"), labels)
    spread = np.asarray(Image.open(tmp_path / "a.pgm"))
    np.testing.assert_array_equal(spread, np.rint(labels * 127.5))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5\n3 4\n255\n" + bytes(11), "it is cut short"),
        (b"P6\n3 4\n65535\n" + bytes(71), "it is cut short"),
        (b"P4\n9 4\n" + bytes(7), "it is cut short"),
        (b"P2\n2 2\n9\n1 2 3", "it is cut short"),
        (b"P1\n2 2\n1 0 1", "it is cut short"),
        (b"P2\n2 2\n9\n1 2 3 10", "it has the value 10 above its largest, 9"),
        (b"P5\n0 4\n255\n", "it has no pixels"),
        (b"P5\n3 4\n70000\n", "its largest value is 70000"),
        (b"P5\nthree", "its header is damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.pgm").write_bytes(data)
    with pytest.raises(SegkitError, match=rf"a\.pgm: cannot be read: {reason}"):
        read_image(tmp_path / "a.pgm")
