"""Pretrained weights: files, the cache, the hub, and what is said when there are none."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder, weights
from segkit.models.encoders.weights import PretrainedWarning, find_weights, read_state
from segkit.models.segmenter import create_model

NAME = "test_resnet"
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SEGKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = DATA.parent / "weights" / "tf_efficientnet_lite0.safetensors"


@pytest.fixture
def file(tmp_path) -> Path:
    """A file of weights of the whole test model, its classifier included."""
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model(NAME).state_dict(), path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a connection fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", refuse)


@pytest.fixture
def hub(monkeypatch):
    """A hub that is reached, with an empty cache, and keeps nothing until it is told to."""
    files: dict[str, Path] = {}

    def download(repository, name, **_):
        if name not in files:
            raise huggingface_hub.utils.EntryNotFoundError(f"404: {name}")
        return str(files[name])

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(weights, "_require_answer", lambda url: None)
    return files


def same_weights(encoder: Encoder, path: Path) -> bool:
    state = read_state(path)
    return all(torch.equal(p, state[n]) for n, p in encoder.backbone.named_parameters())


def test_false_never_asks_anybody(no_network):
    encoder = Encoder.build(NAME, pretrained=False)
    assert encoder.pretrained_from is None
    assert encoder.input_stats is None


@pytest.mark.parametrize("kind", [".safetensors", ".pth", "state_dict.pth"])
def test_a_file_is_loaded_without_asking_anybody(file, kind, tmp_path, no_network):
    path = file
    if kind != ".safetensors":
        path = tmp_path / f"weights{kind}"
        state = read_state(file)
        torch.save({"state_dict": state, "epoch": 3} if "state" in kind else state, path)
    encoder = Encoder.build(NAME, pretrained=str(path))
    assert same_weights(encoder, file)
    assert encoder.pretrained_from == str(path)
    assert encoder.input_stats is not None
    assert [len(values) for values in encoder.input_stats] == [3, 3]


@pytest.mark.parametrize("in_channels", [1, 4])
def test_the_first_convolution_is_adapted(file, in_channels):
    encoder = Encoder.build(NAME, pretrained=file, in_channels=in_channels)
    first = next(encoder.backbone.parameters())
    assert first.shape[1] == in_channels
    colour = next(iter(Encoder.build(NAME, pretrained=file).backbone.parameters()))
    if in_channels == 1:  # the response to a grey image is kept
        torch.testing.assert_close(first.sum(1), colour.sum(1))
    else:  # the fourth channel is weighted as the first, all of them by 3/4
        torch.testing.assert_close(first, 0.75 * torch.cat([colour, colour[:, :1]], dim=1))
    assert encoder.input_stats is None  # statistics of three channels say nothing about others


def test_a_file_of_the_unet(tmp_path):
    source = Encoder.build("unet", width=2)
    torch.save(source.state_dict(), tmp_path / "unet.pth")
    encoder = Encoder.build("unet", width=2, pretrained=tmp_path / "unet.pth")
    for a, b in zip(source.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(SegkitError, match="does not fit the encoder"):
        Encoder.build("unet", width=4, pretrained=tmp_path / "unet.pth")
    with pytest.raises(SegkitError, match="no public weights for the encoder 'unet'"):
        Encoder.build("unet", pretrained=True)


def test_the_file_of_another_model_is_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(timm.create_model("test_convnext").state_dict(), other)
    with pytest.raises(SegkitError, match=r"other\.safetensors"):
        Encoder.build(NAME, pretrained=other)


def test_a_broken_file_is_refused(tmp_path):
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(SegkitError, match=f"{name} cannot be read"):
            Encoder.build(NAME, pretrained=tmp_path / name)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SegkitError, match=r"evil\.pth cannot be read"):
        Encoder.build(NAME, pretrained=tmp_path / "evil.pth")
    assert not (tmp_path / "run").exists()


def test_a_missing_file_and_a_file_without_tensors(tmp_path):
    with pytest.raises(SegkitError, match=r"no file .*gone\.pth"):
        Encoder.build(NAME, pretrained=tmp_path / "gone.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(SegkitError, match="holds no dictionary of tensors"):
        Encoder.build("unet", pretrained=tmp_path / "numbers.pth")


def test_cached_weights_are_taken_without_the_network(file, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(file))
    monkeypatch.setattr(weights, "_require_answer", lambda url: pytest.fail("asked the network"))
    encoder = Encoder.build(NAME)
    assert same_weights(encoder, file)
    assert encoder.pretrained_from == f"timm/{NAME}.r160_in1k"


def test_a_hub_that_answers(file, hub):
    hub["model.safetensors"] = file
    assert same_weights(Encoder.build(NAME, pretrained=True), file)


def test_a_hub_that_has_the_older_kind_of_file_only(file, hub, tmp_path):
    torch.save(read_state(file), tmp_path / "pytorch_model.bin")
    hub["pytorch_model.bin"] = tmp_path / "pytorch_model.bin"
    assert same_weights(Encoder.build(NAME, pretrained=True), file)


def test_a_hub_that_does_not_have_them(hub):
    with pytest.raises(SegkitError, match=r"pretrained=true, but .*404"):
        Encoder.build(NAME, pretrained=True)
    with pytest.warns(PretrainedWarning, match="FROM SCRATCH"):
        assert Encoder.build(NAME).pretrained_from is None


def test_a_broken_download_says_which_file_to_delete(hub, tmp_path):
    hub["model.safetensors"] = tmp_path / "model.safetensors"
    hub["model.safetensors"].write_bytes(b"half of it")
    with pytest.raises(SegkitError, match=r"model\.safetensors cannot be read.*delete it"):
        Encoder.build(NAME)


def test_a_model_without_weights():
    with pytest.raises(SegkitError, match="timm has none"):
        find_weights({}, "mine", required=True)
    with pytest.warns(PretrainedWarning, match="'mine': timm has none"):
        assert find_weights({}, "mine", required=False) is None


def test_weights_behind_an_address(file, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def download(url, path, **_):
        Path(path).write_bytes(file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    config = {"url": "https://example.com/a/mine.safetensors"}
    path = find_weights(config, "mine", required=True)
    assert path == tmp_path / "hub" / "checkpoints" / "mine.safetensors"
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("again"))
    assert find_weights(config, "mine", required=True) == path  # from the cache


@pytest.mark.parametrize("way", ["refuses", "is silent"])
def test_a_network_that_does_not_answer_costs_seconds_and_one_warning(hub, monkeypatch, way):
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(weights, "HUB_ANSWER_SECONDS", 0.3)

    def urlopen(*_, **__):
        if way == "refuses":
            raise OSError("connection refused")
        time.sleep(1)  # longer than it may take
        raise OSError("too late")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = Encoder.build(NAME)
    assert time.perf_counter() - start < 6
    assert [w.category for w in caught] == [PretrainedWarning]
    assert "FROM SCRATCH" in str(caught[0].message)
    assert encoder.pretrained_from is None
    with pytest.raises(SegkitError, match=r"pretrained=true, but .*Connect to the network"):
        Encoder.build(NAME, pretrained=True)


def test_offline_is_decided_at_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    with pytest.warns(PretrainedWarning, match="HF_HUB_OFFLINE is set"):
        Encoder.build(NAME)


@pytest.mark.parametrize("pretrained", [3, "", [], None])
def test_what_pretrained_may_be(pretrained):
    with pytest.raises(SegkitError):
        Encoder.build(NAME, pretrained=pretrained)


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there")
def test_real_weights_without_a_network(no_network):
    model = create_model(
        {"name": "tf_efficientnet_lite0", "pretrained": str(REAL), "freeze": "all"}, "fpn"
    ).eval()
    assert model.encoder.pretrained_from == str(REAL)
    mean, std = model.encoder.input_stats
    assert (mean, std) == ((0.5,) * 3, (0.5,) * 3)
    held = read_state(REAL)
    for name, parameter in model.encoder.backbone.named_parameters():
        assert torch.equal(parameter, held[name]), name
    for name, buffer in model.encoder.backbone.named_buffers():
        if not name.endswith("num_batches_tracked"):  # the file has none
            assert torch.equal(buffer, held[name]), name
    with pytest.raises(SegkitError, match="tf_efficientnet_lite0"):
        Encoder.build("resnet18", pretrained=REAL)


def test_scales_of_zero_in_pretrained_weights_stay(tmp_path):
    state = timm.create_model("resnet18").state_dict()
    state["layer1.0.bn2.weight"].zero_()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    encoder = Encoder.build("resnet18", pretrained=tmp_path / "weights.safetensors")
    assert not encoder.backbone["layer1"][0].bn2.weight.any()
