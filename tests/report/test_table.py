import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from segkit.core.errors import SegkitError
from segkit.report.table import build_table, read_csv, write_csv

ROWS = [
    {"class": "road", "iou": 0.91239, "support": 123456},
    {"class": "[red]sign[/]", "iou": math.nan, "support": 0},
    {"class": "mean", "iou": 0.91239, "dice": np.float32(0.5)},
]


def printed(rows: list[dict[str, object]], title: str = "Scores") -> list[str]:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(build_table(rows, title))
    return capture.get().splitlines()


def test_scores_have_four_decimals_and_stand_below_each_other() -> None:
    lines = printed(ROWS, "Scores [of] x")
    assert lines[0].startswith("Scores [of] x")
    assert "IoU" in lines[2]
    road, sign, mean = (
        next(line for line in lines if name in line) for name in ("road", "sign", "mean")
    )
    assert road.index("0.9124") == mean.index("0.9124")
    assert "123,456" in road
    assert "[red]sign[/]" in sign
    assert " - " in sign
    assert "0.5000" in mean
    assert lines.index(mean) - lines.index(sign) == 2  # a rule before the mean


def test_a_class_called_mean_is_a_class() -> None:
    lines = printed([{"class": "mean", "iou": 0.1}, {"class": "road", "iou": 0.2}])
    assert sum(line.startswith("├") for line in lines) == 1  # no rule but that below the head


def test_csv_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.csv"
    write_csv(path, ROWS)
    assert path.read_text().splitlines()[0] == "class,iou,support,dice"
    back = read_csv(path)
    assert [row["class"] for row in back] == ["road", "[red]sign[/]", "mean"]
    assert back[0]["iou"] == 0.91239
    assert back[0]["support"] == 123456
    assert isinstance(back[0]["support"], int)
    assert math.isnan(back[1]["iou"])
    assert math.isnan(back[2]["support"])
    assert back[2]["dice"] == 0.5


def test_missing_values_and_rows_and_odd_names(tmp_path: Path) -> None:
    names = ["7", "", "a,b", 'say "x"', "two\nlines", "nan", "Größe"]
    write_csv(tmp_path / "t.csv", [{"class": name, "iou": 1.0} for name in names])
    assert [row["class"] for row in read_csv(tmp_path / "t.csv")] == names
    assert [line.strip() for line in printed([], "Empty")] in ([], [""], ["Empty"])
    write_csv(tmp_path / "t.csv", [{"epoch": 0, "a": math.nan, "b": None, "lr": 1e-05}])
    assert (tmp_path / "t.csv").read_bytes() == b"epoch,a,b,lr\n0,,,1e-05\n"
    write_csv(tmp_path / "t.csv", [])
    assert read_csv(tmp_path / "t.csv") == []


def test_unreadable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=r"nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(SegkitError, match=r"row 3 .* as many cells as the header"):
        read_csv(tmp_path / "t.csv")
