from __future__ import annotations

import io
import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from segkit.benchmarking.plot import Bar, draw_bars
from segkit.benchmarking.process import Measured, Spec
from segkit.benchmarking.results import Results, Section, cell, command_line, markdown_table
from segkit.benchmarking.roofline import Rates
from segkit.benchmarking.side_by_side import (
    Case,
    chosen_names,
    failures,
    memory_rows,
    require_peers,
    target_rows,
    time_rows,
)
from segkit.core.errors import SegkitError

RESULTS = Results(
    "Title",
    "python x.py --rounds 2",
    {"processor": "one", "cores": 2, "versions": {"torch": "2"}},
    {"rounds": 2},
    [Section("Times", [{"case": "a|b", "ms": 1.5, "MB": math.nan}], ["a note"])],
    ["what it is"],
    "x.png",
    {"seconds": (1.0, math.inf)},
)


def test_both_files_have_machine_command_and_figures(tmp_path):
    page, data = RESULTS.write(tmp_path / "new", "x")
    text = page.read_text()
    for part in (
        "# Title\n\n    python x.py --rounds 2\n",
        "processor: one; cores: 2; torch 2.",
        "![Title](x.png)",
        "## Times",
        "| a\\|b | 1.5 | - |",
        "a note",
    ):
        assert part in text
    stored = json.loads(data.read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert set(stored) == {"title", "command", "machine", "settings", "tables", "notes", "raw"}
    assert stored["tables"] == {"Times": [{"case": "a|b", "ms": 1.5, "MB": None}]}
    assert stored["raw"] == {"seconds": [1.0, None]}
    assert stored["notes"] == ["what it is", "a note"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match="cannot be made"):
        RESULTS.write(tmp_path / "file", "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.01234, "0.0123"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (24_436_369, "24,436,369"),
        ("a", "a"),
    ],
)
def test_cells(value, text):
    assert cell(value) == text


def test_rows_of_different_columns_are_one_table():
    assert markdown_table([{"a": 1}, {"a": 2, "b": "x"}]).splitlines() == [
        "| a | b |",
        "| ---: | --- |",
        "| 1 | - |",
        "| 2 | x |",
    ]
    assert markdown_table([]) == ""


CASE = Case(
    "unet",
    {name: Spec("nowhere:run") for name in ("segkit", "smp", "broken", "segkit's own")},
    {"smp": 0.6, "smp MB": 0.8, "broken": 0.9},
)
FOUND = {
    "unet": {
        "segkit": Measured([1.0, 1.0, 2.0], 60.0, {"flops": 4e9, "bytes": 1e6}),
        "smp": Measured([2.0, 2.0, 4.0], 80.0),
        "broken": Measured(failure="too little memory"),
        "segkit's own": Measured([3.0, 3.0, 3.0], 90.0, alone=True),
    }
}


def test_ours_is_compared_with_every_other_and_has_a_floor():
    (row,) = time_rows([CASE], FOUND, Rates(1e9, 8e9, 1e9))
    assert row["segkit, ms"] == 1000
    assert row["floor, ms"] == 500  # of the faster arithmetic
    assert row["segkit / smp"] == "0.50 [0.50, 0.50]"
    assert (row["broken, ms"], row["segkit / broken"]) == (None, "-")
    assert "segkit / segkit's own" not in row
    (row,) = memory_rows([CASE], FOUND)
    assert row["segkit / smp"] == 0.75
    assert row["segkit / broken"] is None


def test_the_floor_is_that_of_the_slower_of_arithmetic_and_memory():
    (row,) = time_rows([CASE], FOUND, Rates(1e12, 1e12, 1e6))
    assert row["floor, ms"] == 1000


def test_targets_are_told_whether_reached_missed_or_not_measured():
    rows = target_rows([CASE], FOUND)
    assert [(r["of"], r["measured"], r["reached"]) for r in rows] == [
        ("time", 0.5, "yes"),
        ("memory", 0.75, "yes"),
        ("time", None, "not measured"),
    ]
    missed = target_rows([Case("unet", CASE.specs, {"smp": 0.4})], FOUND)
    assert missed[0]["reached"] == "no"


def test_what_failed_or_was_alone_is_said():
    assert failures(FOUND) == [
        "unet, broken: too little memory",
        "unet, segkit's own: measured alone, because beside the others it failed.",
    ]


def test_cases_are_chosen_by_all_of_the_texts():
    names = ["unet training 256", "unet inference 256", "fpn training 512"]
    assert chosen_names(names, ["unet", "train"]) == names[:1]
    assert chosen_names(names, []) == names
    with pytest.raises(SegkitError, match="fpn training 512"):
        chosen_names(names, ["nothing"])


def test_a_missing_peer_is_one_line():
    require_peers("json")
    with pytest.raises(SystemExit, match=r"no_such_peer.*pip install 'segkit-torch\[peers\]'"):
        require_peers("json", "no_such_peer")


def picture(bars, notes=()):
    png = draw_bars(bars, ["ms"], {"ours": (255, 0, 0)}, "title", notes, "floor")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reds(image):
    """Length of the red bar in each row of pixels."""
    return (np.abs(image - (255, 0, 0)).max(-1) < 10).sum(1)


def test_bars_are_as_long_as_their_values():
    bars = [Bar("g", name, (255, 0, 0), {"ms": ms}) for name, ms in [("a", 10.0), ("b", 5.0)]]
    below = reds(picture(bars))[160:]  # below the legend
    lengths = sorted(set(below[below > 0].tolist()))
    assert len(lengths) == 2
    assert lengths[0] / lengths[1] == pytest.approx(0.5, abs=0.02)


def test_a_failure_is_written_where_its_bar_would_be():
    bars = [Bar("g", "a", (255, 0, 0), {"ms": None}, failure="too little memory " * 20)]
    with_failure = picture(bars)
    without = picture([Bar("g", "a", (255, 0, 0), {"ms": None})])
    assert with_failure.shape == without.shape  # it is shortened
    assert (with_failure != without).any()


def test_the_picture_is_wide_enough_for_its_notes():
    bar = Bar("g", "a", (255, 0, 0), {"ms": 1.0})
    assert picture([bar], ["long " * 60]).shape[1] > picture([bar]).shape[1]


def test_the_command_is_told_without_where_its_results_went(monkeypatch) -> None:
    typed = [
        "networks.py",
        "--rounds",
        "3",
        "--output",
        "/home/me/x",
        "--only",
        "unet r",
        "--output=y",
    ]
    monkeypatch.setattr(sys, "argv", typed)
    said = command_line("benchmarks/networks.py")
    assert said == "python benchmarks/networks.py --rounds 3 --only 'unet r'"
