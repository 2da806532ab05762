import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.report.page import Example, Report, fit_to_page, write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Checks that tags nest, and remembers what a test asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def draw(width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, width, 3), dtype=np.uint8)


def make_report(name: str = "cell") -> Report:
    return Report(
        title=f"Run of {name}",
        subtitle="resnet34 + fpn",
        facts={"Mean IoU": "0.91", name: "31 M"},
        notes=["trained from scratch", name],
        history=[
            {"epoch": 0, "lr": 1e-3, "train/loss": 0.9, "val/loss": 0.8, "val/iou": 0.2},
            {"epoch": 1, "lr": 5e-4, "train/loss": 0.5, "val/loss": None, "val/iou": math.nan},
            {"epoch": 2, "lr": 1e-4, "train/loss": 0.4, "val/loss": 0.5, "val/iou/road": 0.1},
        ],
        table=[
            {"class": "background", "iou": 0.98765, "support": 1200},
            {"class": name, "iou": math.nan, "support": 34},
            {"class": "mean", "iou": 0.98765, "support": 1234},
        ],
        summary=[{"score": "dice", "value": 0.75, "low": 0.5}, {"score": "objects", "value": 9}],
        confusion=(["background", name], [[90, 10], [0, 0]]),
        examples=[
            Example("best.tif", 0.9, draw(), "best"),
            Example(f"a/b/{name}/worst image.png", math.nan, draw(4000), "worst"),
        ],
        classes=[("background", (0, 0, 0)), (name, (255, 128, 0))],
        config=f"data:\n  name: {name}\n",
        environment={"torch": "2.8", name: name},
    )


@pytest.fixture
def write(tmp_path: Path):
    def write_page(report: Report) -> Page:
        write_report(tmp_path / "report.html", report)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write_page


def test_every_section_is_there_and_in_order(write) -> None:
    page = write(make_report())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    sections = ["curves", "scores", "summary", "confusion", "worst", "best", "config"]
    assert ids == [*sections, "environment"]
    assert [attributes["href"] for attributes in page.find("a")] == [f"#{name}" for name in ids]
    assert {"Run of cell", "resnet34 + fpn", "trained from scratch", "31 M"} <= set(page.words)
    charts = ["Loss", "Validation scores", "Learning rate"]
    assert [i["alt"] for i in page.find("img")[:3]] == [f"{name} by epoch" for name in charts]
    assert {"0.9877", "1,234", "–", "90.0", "10.0", "false positive", "2.8"} <= set(page.words)
    assert any("name: cell" in words for words in page.words)
    assert "--fill: 0.9877" in [cell.get("style") for cell in page.find("td")]  # the bar of an IoU
    swatch = 'background: #ff8000"></span>cell'  # in the scores and in the key of the pictures
    assert page.html.count(swatch) == 2
    assert re.findall(r"<tfoot>\s*<tr>\s*<th[^>]*>(\w+)<", page.html) == ["mean"]


def test_the_calibration_is_a_section_with_a_picture(write) -> None:
    rows = [
        {"low": 0.0, "high": 0.5, "pixels": 0, "accuracy": math.nan, "confidence": math.nan},
        {"low": 0.5, "high": 1.0, "pixels": 9, "accuracy": 0.8, "confidence": 0.9},
    ]
    page = write(Report(title="Nothing", calibration=rows))
    assert [attributes["id"] for attributes in page.find("section")] == ["calibration"]
    assert [attributes["href"] for attributes in page.find("a")] == ["#calibration"]
    (picture,) = page.find("img")
    assert "Reliability" in base64.b64decode(picture["src"].partition(",")[2]).decode()


def test_the_history_is_there_as_numbers_and_curves_without_single_classes(write) -> None:
    page = write(make_report())
    start = page.words.index("All epochs as numbers") + 1
    assert page.words[start : start + 12] == [
        *("epoch", "lr", "train/loss", "val/loss", "val/iou", "val/iou/road"),
        *("0", "0.001000", "0.9000", "0.8000", "0.2000", "–"),
    ]
    drawn = base64.b64decode(page.find("img")[1]["src"].partition(",")[2]).decode()
    assert "val/iou" in drawn
    assert "val/iou/road" not in drawn


def test_an_empty_report_is_a_page_without_sections(write, tmp_path: Path) -> None:
    page = write(Report(title="Nothing"))
    assert "Nothing" in page.words
    assert page.find("section") == page.find("details") == []
    assert not (tmp_path / "report").exists()


def test_nothing_is_fetched(write) -> None:
    page = write(make_report())
    for text in ("http://", "https://", "url(", "@import"):
        assert text not in page.html
    assert page.find("script") == page.find("link") == []
    embedded = ("data:image/png;base64,", "data:image/svg+xml;base64,")
    assert all(image["src"].startswith(embedded) for image in page.find("img"))
    policy = next(m["content"] for m in page.find("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")


def test_hostile_names_stay_text(write) -> None:
    page = write(make_report(name=HOSTILE))
    assert page.find("script") == []
    assert page.words.count(HOSTILE) >= 7
    assert any(HOSTILE in (image["alt"] or "") for image in page.find("img"))


def test_examples_are_in_the_page_and_in_files(write, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "worst-02-old.png").touch()  # of an earlier evaluation
    (folder / "mine.png").touch()
    *_, worst, best = write(make_report()).find("img")
    assert worst["alt"] == "Worst prediction 1: a/b/cell/worst image.png, IoU –"
    assert best["alt"] == "Best prediction 1: best.tif, IoU 0.9000"
    embedded = Image.open(io.BytesIO(base64.b64decode(worst["src"].split(",")[1])))
    assert embedded.width == 1600
    written = ["best-01-best.png", "mine.png", "worst-01-worst_image.png"]
    assert sorted(path.name for path in folder.iterdir()) == written
    np.testing.assert_array_equal(np.asarray(Image.open(folder / written[2])), draw(4000))


def test_the_confusion_is_normalised_by_rows(write) -> None:
    page = write(make_report())
    cells = {cell["title"]: cell["class"] for cell in page.find("td") if "title" in cell}
    assert cells == {
        "background predicted as background: 90 pixels, 90.00%": "right deep",
        "background predicted as cell: 10 pixels, 10.00%": "wrong",
    }
    page = write(Report(title="x", confusion=(["a", "b"], [[3, 1], [900, 100]])))
    assert {"75.0", "25.0", "90.0", "10.0"} <= set(page.words)


def test_a_hundred_classes_and_the_painted_background(write) -> None:
    names = [f"class {index}" for index in range(100)]
    report = Report(
        title="x",
        table=[{"class": name, "iou": 0.5} for name in names],
        confusion=(names, np.eye(100, dtype=int).tolist()),
        examples=[Example("a", 0.5, draw(), "worst")],
        classes=[(name, (1, 2, 3)) for name in names],
        background=None,
    )
    page = write(report)
    assert "false positive" not in page.words
    assert page.words.count("class 0") == 4  # scores, two sides of the confusion, the colour key


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((900, 1000), (900, 1000)),
        ((1, 5000), (1, 1600)),
        ((7, 23), (238, 782)),
        ((2000, 10), (2000, 10)),
    ],
)
def test_wide_pictures_shrink_and_tiny_ones_grow(size, expected) -> None:
    assert fit_to_page(np.zeros((*size, 3), dtype=np.uint8)).shape == (*expected, 3)
