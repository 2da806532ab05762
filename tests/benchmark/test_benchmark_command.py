from __future__ import annotations

import json

import pytest

from segkit.benchmark.command import (
    Combination,
    benchmark,
    combine,
    make_row,
    name_part,
)
from segkit.benchmark.measuring import measure
from segkit.config.compose import compose
from segkit.config.settings import BenchmarkSettings
from segkit.core.errors import SegkitError

MEASURES = ("M param.", "GFLOPs", "predict ms", "train ms", "predict MB", "train MB")


def test_everything_is_combined_with_everything():
    settings = BenchmarkSettings(
        encoders=["resnet18", "resnet34"],
        necks=["unet", {"name": "fpn", "upsample": "deconv"}],
        upsample=["nearest", "bilinear"],
        sizes=[32, 64],
    )
    names = [(one.side, one.encoder["name"], name_part(one.neck)) for one in combine(settings)]
    necks = ["unet", "unet upsample=bilinear", "fpn upsample=deconv"]
    encoders = ("resnet18", "resnet34")
    assert names == [(side, e, neck) for side in (32, 64) for e in encoders for neck in necks]


def test_a_row_has_all_that_was_measured():
    one = Combination({"name": "vit"}, {"name": "fpn"}, 64)
    predict = {"parameters": 1e6, "gflops": 2.0, "seconds": [0.1, 0.3, 0.2], "peak_mb": 100.0}
    row = make_row(one, predict, {"failure": "out of memory"})
    assert [row[key] for key in MEASURES] == [1, 2, 200, None, 100, None]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoders=[resnt18]", "necks=[unt]"], r"(?s)Did you mean 'resnet18'.*'unet'"),
        (["rounds=0"], "rounds"),
        (["encoders=[]"], "encoders"),
        (["upsample=[cubic]"], "upsample"),
        (["device=nothing"], "device 'nothing' cannot be used"),
    ],
)
def test_wrong_values_are_named_before_anything_is_measured(overrides, message, tmp_path):
    with pytest.raises(SegkitError, match=message):
        benchmark(compose([*overrides, f"output={tmp_path / 'new'}"], "benchmark"))
    assert not (tmp_path / "new").exists()


def test_concatenation_costs_more_than_addition():
    tiny = {"name": "unet", "width": 4, "depth": 3}
    common = {"encoder": tiny, "side": 32, "batch": 2, "rounds": 1, "warm_up": 0}
    unet = measure("predict", neck={"name": "unet"}, **common)
    fpn = measure("predict", neck={"name": "fpn", "width": 4, "merge_width": 4}, **common)
    assert unet["parameters"] > fpn["parameters"]
    assert unet["gflops"] > fpn["gflops"]


def test_the_command_fails_if_nothing_could_be_measured(tmp_path):
    overrides = ["encoders=[unet]", "necks=[unet]", "timeout=0.01", f"output={tmp_path}"]
    with pytest.raises(SegkitError, match=r"no combination could .*: no result after 0\.01 s"):
        benchmark(compose(overrides, "benchmark"))
    assert "no result after" in (tmp_path / "benchmark.md").read_text()


@pytest.mark.nightly
def test_the_command_measures_and_writes(tmp_path, capsys):
    """One network works, and one fails when it is built."""
    typed = ["encoders=[{name: unet, width: 4, depth: 2}]", "necks=[unet,{name: fpn, width: 0}]"]
    typed += ["sizes=32", "batch=2", "rounds=2", "warm_up=0"]
    assert benchmark(compose([*typed, f"output={tmp_path}"], "benchmark")) == tmp_path
    page = (tmp_path / "benchmark.md").read_text()
    assert "medians of 2 runs" in page
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    good, bad = stored["rows"]
    assert all(good[key] > 0 for key in MEASURES[:4])
    assert {bad[key] for key in MEASURES} == {None}
    assert "width" in stored["failures"][0]
    assert "unet width=4 depth=2" in capsys.readouterr().out
