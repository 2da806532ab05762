from __future__ import annotations

import json

import pytest
from PIL import Image

from segkit.benchmarking.combinations import (
    AT_ONCE,
    MEASURES,
    Combination,
    Result,
    combine,
    compare_joins,
    label,
)
from segkit.benchmarking.command import benchmark, verdicts, write
from segkit.benchmarking.process import Measured
from segkit.benchmarking.roofline import Rates
from segkit.config.compose import compose
from segkit.config.settings import BenchmarkSettings
from segkit.core.errors import SegkitError

RATES = Rates(1e9, 1e9, 1e9)
TINY = "{name: unet, width: 4, depth: 2}"


def result(neck, times, encoder="resnet18", peak=100.0, alone=False, **neck_options):
    work = {"parameters": 1_000_000, "flops": 2e9, "bytes": 1e6}
    measured = Measured(times, peak, work, alone=alone)
    at = Combination({"name": encoder}, {"name": neck, **neck_options}, 64)
    return Result(at, 2, measured, measured, RATES)


def test_everything_is_combined_with_everything():
    necks = [{"name": "unet"}, {"name": "fpn", "upsample": "deconv"}]
    groups = list(combine([{"name": "a"}, {"name": "b"}], necks, ["nearest", "bilinear"], [32, 64]))
    assert [(g[0].encoder["name"], g[0].side) for g in groups] == [
        ("a", 32),
        ("b", 32),
        ("a", 64),
        ("b", 64),
    ]
    assert [label(one.neck) for one in groups[0]] == [
        "unet upsample=nearest",
        "unet upsample=bilinear",
        "fpn upsample=deconv",  # as it says itself
    ]


def test_no_more_processes_than_memory_has_room_for():
    necks = [{"name": "fpn", "width": width} for width in range(8, 8 + AT_ONCE + 1)]
    assert [len(g) for g in combine([{"name": "a"}], necks, ["nearest"], [32])] == [AT_ONCE, 1]


def test_a_row_has_all_measures_and_floors():
    row = result("unet", [0.1, 0.3, 0.2]).row()
    assert set(MEASURES) <= set(row)
    assert (row["predict ms"], row["GFLOPs"], row["M param."]) == (200, 1, 1)
    assert row["predict floor"] == 2000


def test_a_failure_of_one_half_leaves_the_other():
    good = result("unet", [0.1])
    half = Result(good.combination, 2, good.inference, Measured(failure="no memory"), RATES)
    assert half.failure == "training: no memory"
    assert half.values()["predict ms"] == 100
    assert half.values()["train ms"] is None
    both = Result(good.combination, 2, Measured(failure="no"), Measured(failure="no"), RATES)
    assert both.failure == "no"
    assert set(both.values().values()) == {None}


def test_concatenation_is_held_against_each_addition_of_the_same_encoder():
    results = [
        result("unet", [1.0, 2.0], peak=50.0),
        result("fpn", [2.0, 4.0]),
        result("fpn", [0.5, 1.0], width=8),
        result("unet", [3.0, 3.0], encoder="resnet34", peak=80.0),
        result("fpn", [1.0, 1.0], encoder="resnet34"),
        result("fcn", [1.0, 1.0], encoder="other"),  # nothing to be held against
    ]
    rows = compare_joins(results)
    assert [row["concatenation / addition"] for row in rows] == ["unet / fpn", "unet / fpn width=8"]
    assert rows[0]["predict ms"] == (0.5 + 3.0) / 2  # the median over the encoders
    assert rows[0]["predict MB"] == pytest.approx((0.5 + 0.8) / 2)
    assert rows[1]["predict ms"] == 2
    said = verdicts(rows)
    assert "addition (fpn) costs more in predict ms x 1.75, train ms x 1.75; and less in" in said[0]
    assert "addition (fpn width=8) costs more in predict ms x 2.00" in said[1]
    assert verdicts([{"concatenation / addition": "a / b"} | dict.fromkeys(MEASURES, 1.0)]) == [
        "Concatenation (a) against addition (b) costs the same."
    ]


def test_a_failed_combination_is_a_row_with_its_reason(tmp_path):
    good = result("unet", [0.1])
    bad = Result(
        Combination({"name": "vit"}, {"name": "fpn"}, 64),
        2,
        Measured(failure="too little memory"),
        Measured(failure="too little memory"),
        RATES,
    )
    settings = BenchmarkSettings(
        encoders=["resnet18"], necks=["unet"], upsample=["nearest"], sizes=[64], output=tmp_path
    )
    write([good, bad], settings, {"processor": "one"})
    page = (tmp_path / "benchmark.md").read_text()
    assert "| vit | fpn | 64 | - |" in page
    assert "vit + fpn, 64 x 64: too little memory" in page
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(stored["tables"]["Encoders and necks"]) == 2
    assert stored["raw"]["results"][1]["failure"] == "too little memory"
    Image.open(tmp_path / "benchmark.png").verify()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["encoders=[resnt18]", "necks=[unt]"], r"(?s)Did you mean 'resnet18'.*'unet'"),
        (["rounds=0"], "rounds"),
        (["encoders=[]"], "encoders"),
        (["upsample=[cubic]"], "upsample"),
        (["device=nothing"], "device 'nothing' cannot be used"),
    ],
)
def test_what_the_user_got_wrong_is_said_before_anything_is_measured(overrides, said, tmp_path):
    config = compose([*overrides, f"output={tmp_path / 'new'}"], "benchmark")
    with pytest.raises(SegkitError, match=said):
        benchmark(config)
    assert not (tmp_path / "new").exists()


def small(folder, *overrides):
    common = ["sizes=32", "batch=2", "rounds=1", "warm_up=0", f"output={folder}"]
    return compose([*common, *overrides], "benchmark")


@pytest.mark.slow
def test_the_command_measures_and_writes(tmp_path, capsys, monkeypatch):
    """One network works; one fails: a pyramid of 0 levels wide is refused when it is built."""
    config = small(tmp_path, f"encoders=[{TINY}]", "necks=[unet,{name: fpn, width: 0}]")
    typed = ["rounds=1", f"output={tmp_path}"]
    monkeypatch.setattr("segkit.benchmarking.command.overrides", lambda: typed)
    assert benchmark(config) == tmp_path
    page = (tmp_path / "benchmark.md").read_text()
    assert "    python -m segkit.benchmark rounds=1\n" in page  # where it went is nobody's business
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    good, bad = stored["raw"]["results"]
    assert good["failure"] == ""
    assert len(good["training"]["seconds"]) == 1
    assert "width" in bad["failure"]
    assert stored["machine"]["copy, GB/s"] > 0
    assert "unet" in capsys.readouterr().out


@pytest.mark.slow
def test_where_nothing_works_the_files_are_written_and_the_command_fails(tmp_path):
    config = small(tmp_path, f"encoders=[{TINY}]", "necks=[{name: fpn, width: 0}]")
    with pytest.raises(SegkitError, match="no combination could be measured"):
        benchmark(config)
    assert (tmp_path / "benchmark.md").is_file()
