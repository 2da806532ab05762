"""Models go to a stand-in of the hub and come back from it, the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import train_quick

import segkit
from segkit.checkpoint.reading import read
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.core.published import find_name
from segkit.hub.command import push as run_push

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub's own

IMAGE = np.random.default_rng(0).integers(0, 255, (70, 90, 1), np.uint8)


def push(checkpoint: Path | str, *overrides: str) -> str:
    return run_push(compose([f"push='{checkpoint}'", *overrides], "hub"))


def predict(path: Path | str) -> np.ndarray:
    return segkit.load(path, device="cpu")(IMAGE, probabilities=True).probabilities


def commits(hub) -> int:
    return sum("/commit/" in request for request in hub.requests)


def test_a_pushed_model_is_the_same_to_the_bit(hub, binary_run, tmp_path, monkeypatch, capsys):
    assert push(binary_run.checkpoint, "repo=me/cells") == "hf://me/cells"
    said = capsys.readouterr().out
    assert "license: unknown" in said
    assert "the repository is private" in said
    assert commits(hub) == 1
    files = hub.repositories["me/cells"].files()
    names = {"README.md", "config.json", "model.safetensors", "worst.png"}
    assert files.keys() == {".gitattributes", *names}
    assert np.array_equal(predict("hf://me/cells"), predict(binary_run.checkpoint))
    mine, theirs = (read(p)[0].state_dict() for p in (binary_run.checkpoint, "hf://me/cells"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert hub.requests.count("GET /me/cells/resolve/main/README.md") == 0  # two files alone

    # a commit, a branch, a Path, an ensemble, and without a network
    oid = hub.repositories["me/cells"].branches["main"]
    push(binary_run.checkpoint, "repo=me/cells", "revision=v2", "license=mit")
    assert b'load("hf://me/cells@v2")' in hub.repositories["me/cells"].files("v2")["README.md"]
    (tmp_path / "both.yaml").write_text(f"checkpoints: ['hf://me/cells@{oid}', 'hf://me/cells']")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = predict(binary_run.checkpoint)
    for name in (f"hf://me/cells@{oid}", Path("hf://me/cells")):
        assert np.array_equal(predict(name), expected)
    assert len(segkit.load(tmp_path / "both.yaml", device="cpu").networks) == 2
    with pytest.raises(SegkitError, match=r"hf://me/cells@v2 is not in the cache.*HF_HUB_OFFLINE"):
        segkit.load("hf://me/cells@v2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert np.array_equal(predict("hf://me/cells@v2"), expected)


def test_the_page_says_what_the_model_is(binary_run, tmp_path):
    push(binary_run.checkpoint, f"folder='{tmp_path}/out'", "repo=me/cells", "license=mit")
    page = (tmp_path / "out/README.md").read_text()
    _, front, text = page.split("---\n", 2)
    held = yaml.safe_load(front)
    assert (held["library_name"], held["license"]) == ("segkit", "mit")
    assert held["pipeline_tag"] == "image-segmentation"
    (result,) = held["model-index"][0]["results"]
    scores = {each["type"]: each["value"] for each in result["metrics"]}
    assert scores["iou"] == pytest.approx(binary_run.evaluation.means["iou"], abs=1e-6)
    for part in ('segkit.load("hf://me/cells")', "checkpoint=hf://me/cells", "1 channel of 8 bits"):
        assert part in text
    assert "![" in text
    written = tmp_path / "out/model.safetensors"
    assert np.array_equal(predict(written), predict(binary_run.checkpoint))


def test_no_paths_and_names_of_images_are_published(tmp_path):
    stored = torch.load(
        Path(__file__).parents[1] / "compatibility/made_by_0.1.0/binary/checkpoints/best.ckpt",
        weights_only=True,
    )
    data = {"name": "folder", "root": "/home/jane/patients", "val_names": ["images/Doe_John.png"]}
    stored["segkit"]["config"] |= {"data": data, "init": "C:\\runs\\secret\\best.ckpt"}
    stored["segkit"]["pretrained_from"] = "/home/jane/weights.pth"
    torch.save(stored, tmp_path / "best.ckpt")
    push(tmp_path / "best.ckpt", f"folder='{tmp_path}/out'")
    for name in ("config.json", "README.md"):
        text = (tmp_path / "out" / name).read_text()
        assert not any(word in text for word in ("jane", "Doe", "secret"))
    assert '"root": "patients"' in (tmp_path / "out/config.json").read_text()


def test_edited_pages_and_files_of_others_stay(hub, binary_run, capsys):
    mine = [binary_run.checkpoint, "repo=me/cells"]
    push(*mine)
    repository = hub.repositories["me/cells"]
    push(*mine, "license=mit", "pictures=false")
    assert b"license: mit" in repository.files()["README.md"]
    assert "worst.png" not in repository.files()
    repository.commit("main", {**repository.files(), "README.md": b"mine", "notes.txt": b"1"})
    push(*mine)
    assert "was edited: it stays" in capsys.readouterr().out
    assert (repository.files()["README.md"], repository.files()["notes.txt"]) == (b"mine", b"1")
    push(*mine, "overwrite=true")
    assert b"segkit.load" in repository.files()["README.md"]

    other = hub.add("me/bert", True, **{"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(SegkitError, match=r"repo=me/bert holds files that segkit did not write"):
        push(binary_run.checkpoint, "repo=me/bert")
    assert other.files()["config.json"] == b'{"model_type": "bert"}'


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "repo is missing: give repo=OWNER/NAME"),
        (["repo=cells"], "repo='cells'"),
        (["repo=me/cells", "private=false"], "license=apache-2.0, mit"),
        (["repo=you/cells"], r"repo=you/cells: the token may not write there.*hf auth whoami"),
        (["repo=me/open"], "repo=me/open is public: private=false"),
        (["repo=me/cells", "license=none"], r'the hub refuses it.*"license" must be one of'),
    ],
)
def test_what_cannot_be_pushed_is_said_once(hub, binary_run, overrides, said):
    hub.add("me/open")
    with pytest.raises(SegkitError, match=f"(?s){said}"):
        push(binary_run.checkpoint, *overrides)
    assert commits(hub) == 0


def test_a_push_that_fails_leaves_everything_as_it_was(hub, binary_run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    push(binary_run.checkpoint, "repo=me/cells")
    before = hub.repositories["me/cells"].files()
    for status, said in ((412, "changed meanwhile. Run the command again"), (413, "refuses it")):
        hub.refuses_commits = status
        with pytest.raises(SegkitError, match=said):
            push(binary_run.checkpoint, "repo=me/cells", "license=mit")
    assert hub.repositories["me/cells"].files() == before
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # no temporary files
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SegkitError, match="the hub cannot be reached"):
        push(binary_run.checkpoint, "repo=me/cells")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SegkitError, match=r"needs a token of the Hugging Face hub.*hf auth login"):
        push(binary_run.checkpoint, "repo=me/cells")


def test_what_stands_for_several_networks_or_was_exported_is_refused(binary_run, tmp_path):
    (tmp_path / "all.yaml").write_text(f"checkpoints: ['{binary_run.checkpoint}']")
    (tmp_path / "a.onnx").write_bytes(b"")
    for name, said in (("all.yaml", "is an ensemble"), ("a.onnx", "is an exported file")):
        with pytest.raises(SegkitError, match=said):
            push(tmp_path / name, f"folder='{tmp_path}/out'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf://me", "hf://me names no model of the Hugging Face hub: write hf://OWNER/NAME"),
        ("hf://me/none", "hf://me/none: there is no such repository.*hf auth login"),
        ("hf://me/empty", "hf://me/empty is no model of segkit: it lacks config.json"),
        ("hf://me/bert", "hf://me/bert is no model of segkit: its config.json has no card"),
        ("hf://me/empty@v9", "me/empty has no such branch, tag or commit"),
    ],
)
def test_what_is_no_model_of_segkit_is_said_in_one_message(hub, name, said):
    hub.add("me/empty")
    weights = {"model.safetensors": b"0" * 100, "config.json": b'{"model_type": "bert"}'}
    hub.add("me/bert", **weights)
    with pytest.raises(SegkitError, match=f"(?s){said}"):
        segkit.load(name)
    assert not any("model.safetensors" in request for request in hub.requests)


def test_without_a_network_and_a_cache(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(SegkitError, match=r"not in the cache of this machine.*cannot be reached"):
        segkit.load("hf://me/cells")


@pytest.mark.slow
def test_commands_take_models_of_the_hub(hub, binary_run, tmp_path, monkeypatch):
    from segkit.evaluate.command import evaluate
    from segkit.predict.command import predict as run_predict

    monkeypatch.chdir(tmp_path)
    push(binary_run.checkpoint, "repo=me/cells")
    evaluation = evaluate(compose(["checkpoint=hf://me/cells"], "evaluate"))
    assert evaluation.means["iou"] == binary_run.evaluation.means["iou"]
    assert (tmp_path / "cells/evaluation-val/report.html").is_file()  # not in the hub's cache
    np.save("image.npy", IMAGE)
    run_predict(compose(["checkpoint=hf://me/cells", "input=image.npy"], "predict"))
    assert (tmp_path / "predictions/image.png").is_file()

    run = train_quick(tmp_path / "run", "init=hf://me/cells", "trainer.max_epochs=1")
    held = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert held["init"] == "hf://me/cells"
    taken = [row.split(",")[1:3] for row in (run.folder / "init.csv").read_text().splitlines()[1:]]
    assert taken
    assert all(count == tensors for count, tensors in taken)
    with pytest.raises(SegkitError, match="init: hf://me/none: there is no such repository"):
        train_quick(tmp_path / "other", "init=hf://me/none")


def test_the_name_of_a_model_in_the_cache():
    cached = Path("/home/jane/hub/models--me--cells/snapshots/0123/model.safetensors")
    assert find_name(cached) == "me/cells"
    assert find_name(Path("models--me--cells/checkpoints/best.ckpt")) == ""
