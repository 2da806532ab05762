from pathlib import Path

import pytest

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole


def test_text_and_bytes_arrive_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "Größe\r\nline\n")
    write_whole(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "Größe\r\nline\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_folders_above_are_created(tmp_path: Path) -> None:
    write_whole(str(tmp_path / "a" / "b" / "file.txt"), "x")
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "x"


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "a long old text")
    write_whole(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr("segkit.core.files.os.fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SegkitError, match=r"cannot write .*file.*No space left on device"):
        write_whole(path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SegkitError, match="taken"):
        write_whole(tmp_path / "taken", "x")
    with pytest.raises(SegkitError, match="below"):
        write_whole(tmp_path / "file" / "below", "x")
