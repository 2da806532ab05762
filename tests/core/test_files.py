from pathlib import Path

import pytest

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole


def test_text_and_bytes_replace_the_old_file_and_leave_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(str(path), "Größe\r\nline\n")
    assert path.read_bytes() == "Größe\r\nline\n".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["os.fsync", "Path.replace"])
def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"segkit.core.files.{step}", full)
    with pytest.raises(SegkitError, match=r"cannot write .*file.*No space left on device"):
        write_whole(path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    for name in ("taken", "file/below"):
        with pytest.raises(SegkitError, match=name):
            write_whole(tmp_path / name, "x")
