from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
from fastapi.testclient import TestClient
from serve.conftest import Thresholds, as_png, gigapixel_png, make_card

import segkit
from segkit.config.settings import ServeSettings
from segkit.images.reading import read_image
from segkit.inference.predictor import Prediction
from segkit.serve.answers import draw_pictures
from segkit.serve.app import create_app

SETTINGS = ServeSettings(checkpoint=["a.ckpt"], max_upload_mb=100_000 / 2**20, max_pixels=10_000)


def make_client(predictor=None, **options):
    app = create_app(predictor or Thresholds(), SETTINGS.model_copy(update=options))
    return TestClient(app, base_url="http://127.0.0.1:8000")


@pytest.fixture
def client():
    with make_client() as made:
        yield made


def post(client, data, name="a.png", **query):
    return client.post("/predict", files={"file": (name, data)}, params=query)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file.getvalue()


def expect_refusal(answer, status, reason):
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


def decoded(encoded):
    return base64.b64decode(encoded["base64"])


def values(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture)


def test_json_has_the_size_the_classes_and_the_objects(client, two_squares):
    answer = post(client, as_png(two_squares)).json()
    assert (answer["width"], answer["height"]) == (40, 30)
    assert (answer["channels"], answer["dtype"]) == (1, "uint8")
    background, cell = answer["classes"]
    assert (cell["name"], cell["color"], cell["value"]) == ("cell", "#e69f00", 255)
    assert (background["pixels"], cell["pixels"]) == (1200 - 28, 28)
    assert cell["share"] == pytest.approx(28 / 1200)
    assert answer["objects"][1] == {
        "id": 2,
        "class": "cell",
        "area": 12,
        "bounding_box": {"x": 30, "y": 20, "width": 6, "height": 2},
        "centroid": {"x": 32.5, "y": 20.5},
    }
    assert answer["mask"] is answer["instances"] is answer["pictures"] is None


def test_objects_have_the_class_of_most_of_their_pixels(two_squares):
    two_squares[20:22, 30:36] = 250
    card = make_card("multiclass", ("background", "dim", "bright"))
    with make_client(Thresholds(card)) as client:
        answer = post(client, as_png(two_squares)).json()
    assert [found["class"] for found in answer["objects"]] == ["dim", "bright"]
    assert [known["value"] for known in answer["classes"]] == [0, 10, 20]


def test_files_come_on_demand_and_are_those_of_the_predict_command(client, two_squares):
    query = {"include": ["mask", "instances", "pictures"]}
    answer = post(client, as_png(two_squares), "scan.1.tif", **query).json()
    mask = values(decoded(answer["mask"]))
    np.testing.assert_array_equal(mask, np.where(two_squares > 100, 255, 0))
    ids = values(decoded(answer["instances"]))
    assert (ids[3, 11], ids[21, 31], ids.max()) == (1, 2, 2)
    assert answer["mask"]["name"] == "scan.1.png"
    assert answer["instances"]["name"] == "scan.1_instances.png"
    pictures = {k: read_image(base64.b64decode(v)) for k, v in answer["pictures"].items()}
    assert {k: v.shape[:2] for k, v in pictures.items()} == dict.fromkeys(pictures, (30, 40))
    assert tuple(pictures["classes"][3, 11]) == (230, 159, 0)


def test_each_of_many_objects_has_a_colour():
    ids = np.arange(600, dtype=np.int32).reshape(20, 30)
    prediction = Prediction(np.zeros((20, 30), np.uint8), np.zeros((1, 20, 30), np.float32), ids)
    drawn = draw_pictures(ids[..., None], prediction, make_card()).objects
    with Image.open(io.BytesIO(drawn)) as picture:
        opacity = np.array(picture.convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(opacity > 0, ids > 0)


def test_png_is_the_mask_or_the_ids(client, two_squares):
    answer = post(client, as_png(two_squares), "ä b.png", format="png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%20b.png"
    np.testing.assert_array_equal(values(answer.content), np.where(two_squares > 100, 255, 0))
    ids = values(post(client, as_png(two_squares), format="png", instances=True).content)
    assert ids.max() == 2


def test_masks_of_overlapping_classes_are_tiff(two_squares):
    predictor = Thresholds(make_card("multilabel", ("dim", "bright")), instances=None)
    two_squares[20:22, 30:36] = 250
    with make_client(predictor) as client:
        answer = post(client, as_png(two_squares), include=["mask", "pictures"]).json()
        assert answer["mask"]["media_type"] == "image/tiff"
        layers = tifffile.imread(io.BytesIO(decoded(answer["mask"])))
        np.testing.assert_array_equal(layers, [255 * (two_squares > k) for k in (100, 200)])
        assert [known["pixels"] for known in answer["classes"]] == [28, 12]
        assert answer["objects"] is answer["pictures"]["objects"] is None
        expect_refusal(post(client, as_png(two_squares), format="png"), 422, "format=tiff")
        refused = post(client, as_png(two_squares), instances=True)
        expect_refusal(refused, 422, "instances=components")
        stack = post(client, as_png(two_squares), format="tiff").content
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(stack)), layers)


def test_sixteen_bit_and_pages(client, two_squares):
    stack = np.stack([two_squares, two_squares[::-1], 0 * two_squares]).astype(np.uint16)
    expect_refusal(post(client, tiff(stack), "s.tif"), 422, "3 pages")
    answer = post(client, tiff(stack), "s.tif", page=1, include="mask").json()
    assert (answer["dtype"], answer["page"], answer["pages"]) == ("uint16", 1, 3)
    assert answer["objects"][0]["bounding_box"]["y"] == 30 - 22
    assert answer["mask"]["name"] == "s_0001.png"
    expect_refusal(post(client, tiff(stack), "s.tif", page=3), 422, "page")
    empty = post(client, tiff(stack), "s.tif", page=2, include="pictures").json()
    assert (empty["objects"], empty["classes"][0]["share"]) == ([], 1)


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 415, "empty"),
        (b"some text", 415, "known are BMP, GIF, JPEG"),
        (b"II*\0\xff\xff\xff\xff", 422, "cannot be read"),
        (as_png(np.full((40, 40, 3), 9, np.uint8))[:80], 422, "cut short"),
        (as_png(np.zeros((101, 100), np.uint8)), 413, "100 x 101 pixels"),
        (gigapixel_png(), 413, "60000 x 60000 pixels"),
        (b"\x89PNG" + bytes(100_000), 413, "max_upload_mb"),
    ],
)
def test_bad_files_are_answered_and_the_server_lives_on(client, two_squares, data, status, reason):
    expect_refusal(post(client, data), status, reason)
    assert post(client, as_png(two_squares)).status_code == 200


def test_what_the_model_refuses_is_422_with_its_words(binary_run, two_squares):
    with make_client(segkit.load(binary_run.checkpoint, device="cpu")) as client:
        refused = post(client, tiff(np.zeros((9, 9, 5), np.uint8), planarconfig="contig"))
        expect_refusal(refused, 422, "5 channels")
        assert post(client, tiff(np.full((9, 9), np.inf, np.float32))).status_code == 422
        assert post(client, as_png(two_squares)).status_code == 200


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"format": "gif"}, "format: "),
        ({"page": -1}, "page: "),
        ({"include": "everything"}, "include.0: "),
        ({"fromat": "png"}, "fromat: "),
        ({"format": "png", "include": "mask"}, "format=json only"),
    ],
)
def test_wrong_options_are_named(client, two_squares, query, reason):
    expect_refusal(post(client, as_png(two_squares), **query), 422, reason)


@pytest.mark.parametrize(("kind", "status"), [("image/png", 422), ("multipart/form-data", 400)])
def test_bodies_without_a_file(client, kind, status):
    refused = client.post("/predict", content=b"abc", headers={"content-type": kind})
    expect_refusal(refused, status, "")


def test_not_enough_memory_is_an_answer(two_squares):
    class Hungry(Thresholds):
        def __call__(self, image):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with make_client(Hungry()) as client:
        refused = post(client, as_png(two_squares))
    expect_refusal(refused, 413, "not enough memory")


def test_one_prediction_at_a_time_and_the_server_answers_meanwhile(two_squares):
    class Slow(Thresholds):
        inside, most = 0, 0
        begun, go_on = threading.Event(), threading.Event()

        def __call__(self, image):
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
            Slow.begun.set()
            assert Slow.go_on.wait(20)
            try:
                return super().__call__(image)
            finally:
                Slow.inside -= 1

    predictor = Slow()
    with make_client(predictor) as client, ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(post, client, as_png(two_squares)) for _ in range(4)]
        assert Slow.begun.wait(20)
        assert client.get("/health").json() == {"status": "ok", "busy": True}
        assert not any(answer.done() for answer in answers)
        Slow.go_on.set()
        assert [answer.result(20).status_code for answer in answers] == [200] * 4
        assert client.get("/health").json() == {"status": "ok", "busy": False}
    assert (Slow.most, len(predictor.seen)) == (1, 4)


HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def send_form(app, receive):
    """Send one request to an app without a server; what it answers."""
    kind = (b"content-type", b"multipart/form-data; boundary=x")
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), kind],
    }
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_the_limit_holds_for_a_stream_that_does_not_tell_its_length():
    taken = 0

    async def receive():
        nonlocal taken
        taken += 1
        assert taken < 1000  # it must not be read without end
        body = HEAD if taken == 1 else bytes(10_000)
        return {"type": "http.request", "body": body, "more_body": True}

    predictor = Thresholds()
    start, body = send_form(create_app(predictor, SETTINGS), receive)
    assert start["status"] == 413
    assert b"max_upload_mb" in body["body"]
    assert predictor.seen == []


def test_what_nobody_waits_for_is_not_predicted(two_squares):
    messages = iter(
        [
            {"type": "http.request", "body": HEAD + as_png(two_squares) + b"\r\n--x--\r\n"},
            {"type": "http.disconnect"},
        ]
    )

    async def receive():
        return next(messages)

    predictor = Thresholds()
    send_form(create_app(predictor, SETTINGS), receive)
    assert predictor.seen == []


def test_names_that_lead_here_from_elsewhere_are_refused(client):
    assert client.get("/model", headers={"host": "evil.example"}).status_code == 400
    for host in ("127.0.0.1:8000", "localhost:9", "[::1]:8000"):
        assert client.get("/model", headers={"host": host}).status_code == 200
    with make_client(host="0.0.0.0") as everywhere:
        assert everywhere.get("/model", headers={"host": "lab.example"}).status_code == 200


def test_pages_of_other_sites_cannot_use_it(client, two_squares):
    def sent_from(site):
        return client.post(
            "/predict",
            files={"file": ("a.png", as_png(two_squares))},
            headers={"sec-fetch-site": site, "origin": "https://evil.example"},
        )

    assert sent_from("cross-site").status_code == sent_from("same-site").status_code == 403
    allowed = sent_from("same-origin")
    assert allowed.status_code == 200
    assert "access-control-allow-origin" not in allowed.headers


def test_no_path_reaches_the_file_system(client, two_squares, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"../../{tmp_path.name}/a.png"
    assert post(client, as_png(two_squares), name, include="mask").json()["mask"]["name"] == "a.png"
    assert list(tmp_path.iterdir()) == []
    for path in ("/../app.py", "/app.py", "/%2e%2e/app.py", "/page.html", "/swagger-ui/../core.py"):
        assert client.get(path).status_code == 404


def test_metadata_of_an_upload_leads_to_no_other_file(client, two_squares, tmp_path, monkeypatch):
    """An OME-TIFF may name further files, which a reader of files would open."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite(tmp_path / "secret.tif", np.full((30, 40), 255, np.uint8))
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40"'
        ' SizeY="30" SizeZ="2" SizeC="1" SizeT="1"><TiffData FirstZ="0" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{tmp_path}/secret.tif">urn:uuid:2</UUID></TiffData>'
        '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="me.ome.tif">urn:uuid:1</UUID>'
        "</TiffData></Pixels></Image></OME>"
    )
    data = tiff(two_squares, description=xml, metadata=None)
    for page in (0, 1):
        answer = post(client, data, "me.ome.tif", page=page)
        assert answer.status_code == 422 or answer.json()["classes"][1]["pixels"] in (0, 28)


def test_the_model_is_described(client):
    model = client.get("/model").json()
    assert (model["name"], model["encoder"], model["mode"]) == ("a.ckpt", "resnet18", "binary")
    painted = {known["name"]: known["painted"] for known in model["classes"]}
    assert painted == {"background": False, "cell": True}
    assert (model["in_channels"], model["instances"]) == (1, "components")
    assert model["max_upload_mb"] == pytest.approx(100_000 / 2**20)


@pytest.mark.parametrize("path", ["/", "/docs", "/page.css", "/page.js"])
def test_pages_need_no_network_and_run_only_scripts_of_their_own(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert "//" not in re.sub(r"(?<!:)//.*$|http://www\.w3\.org", "", answer.text, flags=re.M)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "unsafe" not in policy
    for source in re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', answer.text):
        assert client.get(f"/{source}").status_code == 200
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert len(inline) == (path == "/docs")


def test_answers_are_as_their_description_says(client, two_squares):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    answer = post(client, as_png(two_squares), include=["mask", "pictures"]).json()
    assert set(answer) == set(schemas["Answer"]["properties"])
    assert set(answer["objects"][0]) == set(schemas["FoundObject"]["properties"])
    assert set(answer["classes"][0]) == set(schemas["ClassShare"]["properties"])
    assert set(client.get("/model").json()) == set(schemas["ModelInfo"]["properties"])
