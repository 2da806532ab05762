"""YAML files of strangers."""

from __future__ import annotations

import pytest

from segkit.core.errors import SegkitError
from segkit.core.yaml_files import read_yaml_text

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_text_with_aliases_is_read(tmp_path):
    text = "base: &base {lr: 1e-3}\nother:\n  <<: *base\n"
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml_text(tmp_path / "x.yaml") == text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BOMB.encode(), "more than 1,000,000 values"),
        (b"[" * 10**6, "nested more than 50 levels"),
        (b"a: &a [*a]", "within itself"),
        (b"a: *b", "undefined alias|for nothing"),
        (b"{{{", "is no YAML"),
        (b"\x80\x81\x82", "not text in UTF-8"),
        ("x: \xe9".encode("latin1"), "not text in UTF-8"),
    ],
)
def test_others_are_refused_with_a_reason(tmp_path, content, why):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SegkitError, match=why) as error:
        read_yaml_text(tmp_path / "x.yaml")
    assert "x.yaml" in str(error.value)
