"""The page in a real browser, against a real server."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from serve.conftest import as_png, serving

import segkit
from segkit.data.sources.cells import draw
from segkit.images.reading import read_mask
from segkit.inference.masks import make_mask

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def address(multiclass_run, tmp_path_factory):
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    options = [f"checkpoint={multiclass_run.checkpoint}", "instances=components"]
    with subprocess.Popen(
        [sys.executable, "-m", "segkit.serve", *options, "port=0", "device=cpu", "max_upload_mb=1"],
        cwd=tmp_path_factory.mktemp("serve"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        line = server.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + server.stderr.read()
        yield found[0]
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert errors == "stopped\n"  # no traceback, whatever the pages sent


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page in a window; it may ask no other server, and its scripts may not fail."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    opened = context.new_page()
    asked, failures = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failures.append(error))
    opened.asked = asked
    opened.goto(address)
    opened.locator("#model", has_text="unet").wait_for()
    yield opened
    assert failures == []
    assert {url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))} == set()
    context.close()


@pytest.fixture(scope="module")
def predictor(multiclass_run):
    return segkit.load(multiclass_run.checkpoint, device="cpu", instances="components")


def image_of(seed):
    return np.repeat(draw(seed, (48, 64)).image, 3, axis=2)


def drop(page, name, data):
    """What the browser does when a file is dragged onto the page."""
    transfer = page.evaluate_handle(
        """([name, base64]) => {
            const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, base64.b64encode(data).decode()],
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def wait_for_result(page, name):
    # No wait_for_function: it evaluates text, which the page's security policy forbids.
    page.locator("#caption", has_text=name).wait_for()
    page.wait_for_selector("#busy", state="hidden")
    assert page.is_visible("#panel")


def legend(page):
    rows = page.locator("#legend li").all()
    return [
        tuple(row.locator(f".{part}").inner_text() for part in ("name", "share")) for row in rows
    ]


def expected_legend(predictor, labels):
    def told(share):
        return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"

    return [
        (name, told(np.mean(labels == label)))
        for label, name in enumerate(predictor.card.class_names)
    ]


def check_download(page, link, name, values, folder):
    with page.expect_download() as download:
        page.click(link)
    assert download.value.suggested_filename == name
    download.value.save_as(folder / name)
    np.testing.assert_array_equal(read_mask(folder / name), values)


def test_a_dropped_image_is_predicted_and_its_mask_can_be_downloaded(page, predictor, tmp_path):
    image = image_of(1)
    drop(page, "cells.png", as_png(image))
    wait_for_result(page, "cells.png")
    expected = predictor(image)
    assert legend(page) == expected_legend(predictor, expected.labels)
    assert page.inner_text("#count") == str(expected.instances.max())
    assert re.fullmatch(r"[\d.]+ s", page.inner_text("#seconds"))
    mask = make_mask(expected.labels, predictor.card)
    check_download(page, "#mask-download", "cells.png", mask, tmp_path)
    ids = expected.instances
    check_download(page, "#instances-download", "cells_instances.png", ids, tmp_path)


def test_the_opacity_changes_at_once_and_asks_nobody(page):
    drop(page, "cells.png", as_png(image_of(1)))
    wait_for_result(page, "cells.png")
    before = len(page.asked)
    for value in ("0", "100", "30"):
        page.fill("#opacity", value)
        shown = page.evaluate("getComputedStyle(document.querySelector('#layer')).opacity")
        assert float(shown) == pytest.approx(int(value) / 100)
    classes = page.get_attribute("#layer", "src")
    page.check("input[value=objects]", force=True)
    assert page.get_attribute("#layer", "src") != classes
    assert [url for url in page.asked[before:] if not url.startswith("data:")] == []


def test_the_pages_of_a_16_bit_tiff(page, predictor, tmp_path):
    stack = np.stack([image_of(seed).astype(np.uint16) * 257 for seed in (2, 3)])
    tifffile.imwrite(tmp_path / "deep.tif", stack, photometric="rgb")
    drop(page, "deep.tif", (tmp_path / "deep.tif").read_bytes())
    wait_for_result(page, "deep.tif, page 1 of 2")
    assert "16 bit" in page.inner_text("#scaled")
    page.click("#next")
    wait_for_result(page, "deep.tif, page 2 of 2")
    expected = predictor(stack[1])
    assert legend(page) == expected_legend(predictor, expected.labels)
    mask = make_mask(expected.labels, predictor.card)
    check_download(page, "#mask-download", "deep_0001.png", mask, tmp_path)
    assert page.is_disabled("#next")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("notes.txt", b"no image at all", "not an image"),
        ("cut.png", as_png(image_of(1))[:300], "cut short"),
        ("big.tif", bytes(2**20 + 1), "max_upload_mb"),
    ],
)
def test_a_bad_file_gives_a_message_and_the_next_one_works(page, name, data, reason):
    drop(page, name, data)
    page.wait_for_selector("#problem:not([hidden])")
    assert name in page.inner_text("#problem")
    assert reason in page.inner_text("#problem")
    assert page.is_hidden("#panel")
    drop(page, "cells.png", as_png(image_of(1)))
    wait_for_result(page, "cells.png")
    assert page.is_hidden("#problem")


def test_it_shows_that_it_works_and_can_be_cancelled(page):
    held = []
    page.route(re.compile("predict"), lambda route: held.append(route))  # never answered
    drop(page, "cells.png", as_png(image_of(1)))
    page.wait_for_selector("#busy:not([hidden])")
    assert "cells.png" in page.inner_text("#busy")
    assert page.get_attribute(".view", "aria-busy") == "true"
    page.click("#cancel")
    page.wait_for_selector("#busy", state="hidden")
    assert page.is_visible("#drop")
    assert page.is_hidden("#problem")
    assert len(held) == 1


@pytest.mark.parametrize("width", [320, 390, 1000])
def test_nothing_sticks_out_on_a_phone(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    drop(page, "a_very_long_name_" * 5 + ".png", as_png(image_of(1)))
    wait_for_result(page, "a_very_long_name_")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_docs_run_under_the_security_policy_and_send_a_request(page, address):
    page.goto(f"{address}/docs")
    page.locator("#operations-default-health_health_get").wait_for()
    page.click("#operations-default-health_health_get button.execute")
    page.locator("#operations-default-health_health_get", has_text='"busy": false').wait_for()


def test_it_asks_for_a_key_where_one_is_needed(browser):
    key = "a-key-of-more-than-16"
    with serving(keys=[key]) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("#entry:not([hidden])")
        assert page.is_hidden("main")
        assert page.is_hidden("#problem")
        page.fill("#key", "another-key-of-16-signs")
        page.click("#entry button")
        page.locator("#problem", has_text="does not know this key").wait_for()
        page.fill("#key", key)
        page.press("#key", "Enter")
        page.locator("#model", has_text="resnet18").wait_for()
        assert page.is_hidden("#entry")
        drop(page, "cells.png", as_png(image_of(1)))
        wait_for_result(page, "cells.png")
        page.reload()  # the tab knows it
        page.locator("#model", has_text="resnet18").wait_for()
        assert page.is_hidden("#entry")
        page.close()
