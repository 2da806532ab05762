from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.report.charts import choose_line, draw_chart
from segkit.report.command import compare_runs
from segkit.report.comparison import choose_images, compare_options, sort_runs
from segkit.report.overlay import Layer, draw_comparison, draw_overlay, split_comparison
from segkit.report.page import make_file_stem
from segkit.report.runs import find_runs
from segkit.report.table import write_csv

COLORS = [(0, 0, 0), (230, 159, 0)]


def draw_panel(size=(24, 20)):
    image = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size)
    truth = np.zeros(size, np.uint8)
    truth[4:12, 5:15] = 1
    return image, Layer(truth, COLORS), Layer(np.roll(truth, 3, 1), COLORS)


def make_run(folder, ious, *, names=("a.png", "b.png"), classes=("cell",), **options):
    """The files of a finished run with the IoU of each image."""
    folder.mkdir(parents=True)
    config = {"encoder": {"name": "unet", "depth": 3}, "monitor": "val/iou", "seed": 1, **options}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "report.html").write_text("its own page")
    mean, history = float(np.mean(ious)), []
    history = [
        {
            "epoch": n,
            "seconds": 60.0 * n,
            "train/loss": 1.0 - n / 4,
            "val/iou": mean - 0.1 * (1 - n),
        }
        for n in range(2)
    ]
    write_csv(folder / "metrics.csv", history)
    result = {"monitor": "val/iou", "val/iou": mean, "parameters": 12345, "seconds": 61.0}
    (folder / "result.json").write_text(json.dumps(result))
    bounds = {"low": mean - 0.05, "high": mean + 0.05}
    write_csv(folder / "scores.csv", [{"score": "iou", "value": mean, **bounds}])
    rows = [{"class": name, "iou": mean} for name in (*classes, "mean")]
    write_csv(folder / "classes.csv", rows)
    scored = [{"image": n, "iou": iou} for n, iou in zip(names, ious, strict=True)]
    write_csv(folder / "images.csv", scored)
    (folder / "report").mkdir()
    for number, name in enumerate(names, 1):
        path = folder / f"report/worst-{number:02d}-{make_file_stem(name)}.png"
        Image.fromarray(draw_comparison(*draw_panel())).save(path)
    return folder


def write_page(folder, *runs, name="page.html"):
    output = folder / name
    config = compose([f"output={output}"], "report")
    config.runs = [str(run) for run in runs]
    compare_runs(config)
    return output.read_text()


def find_row(page, label):
    """The cells of the first table row of that name, and which of them are bold."""
    (row, *_) = [r for r in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if label in r]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    texts = [re.sub(r"<small>.*?</small>|<[^>]+>", "", cell) for cell in cells]
    return texts, ["<b>" in cell for cell in cells]


def test_two_runs_are_compared_on_one_page(tmp_path):
    one = make_run(tmp_path / "runs/one", [0.9, 0.5], optimizer={"lr": 0.001, "name": "adamw"})
    two = make_run(tmp_path / "runs/two", [0.8, 0.2], optimizer={"lr": 0.01, "name": "adamw"})
    page = write_page(tmp_path, two, one)
    assert "<h1>2 runs compared</h1>" in page
    cells, bold = find_row(page, "one</a>")
    assert cells == ["12,345", "1 min 01 s", "2", "1", "0.7000"]
    assert bold == [False, False, False, False, True]
    assert "0.6500 – 0.7500" in page
    assert find_row(page, "two</a>")[0][-1] == "0.5000"
    assert page.index("one</a>") < page.index("two</a>")  # the best first
    assert 'href="runs/one/report.html"' in page
    assert "optimizer.lr" in page
    assert "lr=0.01" in page  # beside the names
    assert "optimizer.name" not in page
    assert "encoder.depth" not in page
    # the curve of the metric and of the loss, over epochs and over time
    assert re.findall(r'alt="([^"]+), a line', page) == [
        f"{key} over {by}" for key in ("val/iou", "train/loss") for by in ("epochs", "time")
    ]
    side = page[page.index("side by side</h2>") :]
    assert side.index("Where the runs differ most") < side.index(">b.png</h4>")
    assert side.index(">b.png</h4>") < side.index(">a.png</h4>")
    assert side.count("<figure>") == 2 * (2 + 2)
    assert "No picture kept" not in page
    sources = re.findall(r'(?:src|href)="(?!data:|#|runs/)([^"]*)', page)
    assert sources == []  # it needs nothing else


def test_a_panel_is_cut_into_what_it_was_made_of():
    for width in (1, 20, 64, 129, 700):
        panel = draw_comparison(*draw_panel((16, width)))
        image, _, found = draw_panel((16, width))
        parts = split_comparison(panel)
        assert [part.shape for part in parts] == [(16, width, 3)] * 4
        np.testing.assert_array_equal(parts[2], draw_overlay(image, found))
    assert split_comparison(np.zeros((4, 8, 3), np.uint8)) is None


def test_what_a_stranger_has_named_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    runs = [
        make_run(
            tmp_path / name,
            [0.5 + n / 9, 0.4],
            names=(f"{evil}.png", "b"),
            classes=(evil,),
            note=f"{evil}{n}",
        )
        for n, name in enumerate(("a<i>", "b&c"))
    ]
    page = write_page(tmp_path, *runs)
    assert "<script" not in page
    assert "<i>" not in page
    assert "a&lt;i&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert 'href="a%3Ci%3E/report.html"' in page


def test_unfinished_damaged_and_failed_runs_are_listed(tmp_path, capsys):
    runs = [make_run(tmp_path / f"runs/{n}", [0.4 + n / 10, 0.5]) for n in range(5)]
    for name in ("scores.csv", "result.json", "classes.csv", "images.csv"):
        (runs[0] / name).unlink()
    (runs[1] / "scores.csv").write_text("score,value\niou,0.5,7\n")
    (runs[2] / "config.yaml").write_text("a: [1")
    (runs[3] / "result.json").write_text(json.dumps({"overrides": [], "error": "no\nmemory"}))
    page = write_page(tmp_path, tmp_path / "runs")  # as a sweep: all in it
    said = capsys.readouterr().out
    assert f"{runs[0]}: has not finished: 2 epochs, best val/iou 0.4500 in epoch 1" in said
    assert "row 2 of" in said
    assert "config.yaml" in said
    assert find_row(page, "2</a>")[0][-1] == "0.5500"  # what can be read is there
    assert "no memory" in said
    assert said.count("note:") == 4


def test_scores_are_compared_only_on_the_same_images_and_classes(tmp_path):
    make_run(tmp_path / "runs/a", [0.5, 0.5])
    make_run(tmp_path / "runs/b", [0.6, 0.6])
    make_run(tmp_path / "runs/c", [0.9, 0.9], names=("x.png", "y.png"))
    page = write_page(tmp_path, *(tmp_path / "runs").iterdir())
    assert "2 groups: c (2 images; cell) | b, a (2 images; cell)" in page
    bold = [find_row(page, f"{name}</a>")[1][-1] for name in "abc"]
    assert bold == [False, True, False]
    apart = write_page(tmp_path, tmp_path / "runs/a", tmp_path / "runs/c")
    assert "No image was scored by two of the runs" in apart
    assert "So nothing is bold" in apart


def test_images_without_pictures_are_not_hidden_from_the_reader(tmp_path):
    one = make_run(tmp_path / "one", [0.9, 0.5])
    two = make_run(tmp_path / "two", [0.8, 0.2])
    (two / "report/worst-02-b.png").write_text("damaged")
    (two / "report/worst-01-a.png").unlink()
    page = write_page(tmp_path, one, two)
    assert "No picture kept of: two (IoU 0.2000)" in page
    for panel in (*one.glob("report/*"), *two.glob("report/*")):
        panel.unlink()
    assert "the folders hold no pictures" in write_page(tmp_path, one, two)


def test_less_is_better_for_losses(tmp_path):
    for name, loss in (("a", 0.7), ("b", 0.3)):
        folder = make_run(tmp_path / name, [0.5, 0.5], monitor="val/loss")
        (folder / "result.json").write_text(json.dumps({"monitor": "val/loss"}))
        write_csv(folder / "metrics.csv", [{"epoch": 0, "seconds": 1.0, "val/loss": loss}])
        (folder / "scores.csv").unlink()
    runs = sort_runs(find_runs([tmp_path / "a", tmp_path / "b"]))
    assert [run.label for run in runs] == ["b", "a"]
    assert choose_images(runs)


def test_options_of_other_parts_are_apart(tmp_path):
    make_run(tmp_path / "a", [0.5, 0.5], neck={"name": "unet", "attention": "none"})
    make_run(tmp_path / "b", [0.5, 0.5], neck={"name": "fpn", "width": 64}, logger={"use": {}})
    runs = find_runs([tmp_path / "a", tmp_path / "b"])
    shown, rest = compare_options(runs)
    assert shown == {"neck.name": ["unet", "fpn"]}
    assert rest == {"neck.attention": ["none", None], "neck.width": [None, "64"]}


def test_a_line_keeps_its_color_when_another_has_no_values():
    svg = draw_chart({"a": [], "b": [(0.0, 1.0), (1.0, 2.0)]}, title="t", x_label="x")
    assert choose_line(1)[0] in svg
    assert choose_line(0)[0] not in svg


def test_mistakes_are_named(tmp_path):
    run = make_run(tmp_path / "one", [0.5, 0.5])
    two = make_run(tmp_path / "two", [0.5, 0.5])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegkitError, match=r"python -m segkit.report runs/A runs/B"):
        write_page(tmp_path)
    with pytest.raises(SegkitError, match=r"one is one run: name another one"):
        write_page(tmp_path, run, run)
    wrong = (tmp_path / "none", tmp_path / "empty", run / "config.yaml")
    with pytest.raises(SegkitError, match=r"(?s)none is not there.*empty holds no run.*is a file"):
        write_page(tmp_path, *wrong)
    with pytest.raises(SegkitError, match=r"end it in \.html"):
        write_page(tmp_path, run, two, name="page.txt")
    (tmp_path / "thesis.html").write_text("mine")
    with pytest.raises(SegkitError, match="something else of that name"):
        write_page(tmp_path, run, two, name="thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "mine"
    write_page(tmp_path, run, two)
    write_page(tmp_path, run, two)  # its own page is written anew


def test_folders_are_typed_without_a_key_and_torch_is_not_waited_for(tmp_path):
    make_run(tmp_path / "my runs (2)/one", [0.5, 0.5])
    make_run(tmp_path / "my runs (2)/two", [0.6, 0.6])
    code = (
        "import runpy, sys; sys.argv[0] = 'segkit.report';"
        " runpy.run_module('segkit.report', run_name='__main__');"
        " assert 'torch' not in sys.modules"
    )
    typed = ["my runs (2)/one", "output=two.html", "my runs (2)/two"]
    done = subprocess.run(
        [sys.executable, "-c", code, *typed], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2 runs compared: two.html\n"), done.stderr
    assert (tmp_path / "two.html").is_file()
    assert not (tmp_path / "outputs").exists()
