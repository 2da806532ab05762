"""Pretrained weights: files, the cache, the hub, and the messages when there are none."""

from __future__ import annotations

import os
import socket
import time
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
    """Any connection, and any question to the cache, fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


class Hub:
    """A hub with files, and a cache."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.cached: dict[str, Path] = {}
        self.failure: Exception | None = None

    def download(self, repository: str, name: str, local_files_only: bool = False) -> str:
        if local_files_only:
            if name not in self.cached:
                raise huggingface_hub.utils.LocalEntryNotFoundError("not in the cache")
            return str(self.cached[name])
        return str(self.files[name])

    def head(self, url: str, timeout: float) -> None:
        assert timeout < 10
        if self.failure is not None:
            raise self.failure
        name = url.rpartition("/")[2]
        if name not in self.files:
            raise huggingface_hub.utils.EntryNotFoundError(f"404: {name}")


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.head)
    return hub


def same_weights(encoder: Encoder, path: Path) -> bool:
    state = read_state(path)
    return all(torch.equal(p, state[n]) for n, p in encoder.backbone.named_parameters())


def test_false_asks_nobody(no_network):
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


@pytest.mark.parametrize("model", [NAME, "test_convnext"])
@pytest.mark.parametrize(
    "store",
    [
        lambda own, other: {"state_dict": {f"model.encoder.{k}": v for k, v in own.items()}},
        lambda own, other: {
            "student": {f"module.backbone.{k}": v for k, v in other.items()},
            "teacher": {f"module.backbone.{k}": v for k, v in own.items()},
        },
        lambda own, other: {
            "epoch": 3,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
            "model": {f"module.{k}": v for k, v in other.items()},
            "model_ema": {f"module.{k}": v for k, v in own.items()},
        },
        lambda own, other: {
            **{f"_model.head.{k}": v for k, v in other.items() if k.startswith("head")},
            **{f"_model.wrapped_model._model.{k}": v for k, v in own.items()},
        },
    ],
    ids=["part of a network", "student and teacher", "averaged", "wrapped"],
)
def test_weights_are_found_behind_any_prefix(model, store, tmp_path, no_network):
    torch.manual_seed(1)
    own, other = (timm.create_model(model).state_dict() for _ in range(2))
    torch.save(own, tmp_path / "own.pth")
    torch.save(store(own, other), tmp_path / "stored.pth")
    plain, found = (
        Encoder.build(model, pretrained=tmp_path / name) for name in ("own.pth", "stored.pth")
    )
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name
    for module in found.modules():  # nothing holds the file
        configs = [getattr(module, key, None) for key in ("pretrained_cfg", "default_cfg")]
        assert not any("state_dict" in config for config in configs if config)


@pytest.mark.parametrize("model", ["test_convnext", "test_vit", NAME])
def test_the_encoder_of_a_trained_network_is_found(model, tmp_path, no_network):
    """timm has other names where a backbone gives several maps."""
    network = create_model({"name": model, "pretrained": False}, "fpn")
    stored = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": stored}, tmp_path / "network.ckpt")
    found = Encoder.build(model, pretrained=tmp_path / "network.ckpt")
    wanted = network.encoder.backbone.state_dict()
    for name, value in found.backbone.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_files_of_other_programs_are_named_in_the_message(tmp_path):
    state = {f"features.{i}.weight": torch.rand(3, 3) for i in range(9)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(SegkitError, match=r"called features\.0\.weight, .* of the model stem"):
        Encoder.build("test_convnext", pretrained=tmp_path / "other.pth")


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
    network = {f"model.encoder.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": network}, tmp_path / "best.ckpt")
    encoder = Encoder.build("unet", width=2, pretrained=tmp_path / "best.ckpt")
    for a, b in zip(source.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(SegkitError, match="does not fit the encoder"):
        Encoder.build("unet", width=4, pretrained=tmp_path / "unet.pth")
    with pytest.raises(SegkitError, match="no public weights for the encoder 'unet'"):
        Encoder.build("unet", pretrained=True)


def test_wrong_files_are_refused_and_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no weights at all")
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    other = timm.create_model("test_convnext").state_dict()
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    for name, message in (
        ("gone.pth", r"no file .*gone\.pth"),
        ("broken.safetensors", "cannot be read"),
        ("broken.pth", "cannot be read"),
        ("evil.pth", "cannot be read"),
        ("numbers.pth", "holds no dictionary of tensors"),
        ("other.safetensors", "file of another model"),
    ):
        with pytest.raises(SegkitError, match=message):
            Encoder.build(NAME, pretrained=tmp_path / name)
    assert not (tmp_path / "run").exists()
    for value in (3, "", [], None):
        with pytest.raises(SegkitError):
            Encoder.build(NAME, pretrained=value)


def test_cached_weights_are_taken_without_the_network(file, hub):
    hub.cached["model.safetensors"] = file
    hub.failure = AssertionError("asked the network")
    encoder = Encoder.build(NAME)
    assert same_weights(encoder, file)
    assert encoder.pretrained_from == f"timm/{NAME}.r160_in1k"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_that_has_them(file, hub, tmp_path, name):
    hub.files[name] = file
    if name.endswith("bin"):  # the older kind of file
        hub.files[name] = tmp_path / name
        torch.save(read_state(file), hub.files[name])
    assert same_weights(Encoder.build(NAME, pretrained=True), file)


@pytest.mark.parametrize("failure", [None, TimeoutError("no answer within 4 s")])
def test_a_hub_that_does_not_have_them_or_does_not_answer(hub, failure):
    hub.failure = failure
    said = "404" if failure is None else "no answer"
    with pytest.raises(SegkitError, match=rf"pretrained=true, but .*{said}.*Connect to the net"):
        Encoder.build(NAME, pretrained=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Encoder.build(NAME).pretrained_from is None
    assert [w.category for w in caught] == [PretrainedWarning]
    assert "FROM SCRATCH" in str(caught[0].message)


def test_a_server_that_never_answers_costs_seconds(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and says nothing
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_url", lambda repository, name: f"{address}/{repository}/{name}"
        )
        monkeypatch.setattr(weights, "HUB_ANSWER_SECONDS", 0.3)
        start = time.perf_counter()
        with pytest.warns(PretrainedWarning, match="cannot be downloaded"):
            Encoder.build(NAME)
        assert time.perf_counter() - start < 8


def test_offline_is_decided_at_once(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    with pytest.warns(PretrainedWarning, match="unset the `HF_HUB_OFFLINE`"):
        Encoder.build(NAME)


def test_a_broken_download_says_which_file_to_delete(hub, tmp_path):
    hub.files["model.safetensors"] = tmp_path / "model.safetensors"
    hub.files["model.safetensors"].write_bytes(b"half of it")
    with pytest.raises(SegkitError, match=r"model\.safetensors cannot be read.*delete it"):
        Encoder.build(NAME)


def test_a_model_without_weights():
    with pytest.raises(SegkitError, match="timm has none"):
        find_weights({}, "mine", required=True)
    with pytest.warns(PretrainedWarning, match="'mine': timm has none"):
        assert find_weights({}, "mine", required=False) is None


def test_weights_behind_an_address(file, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    config = {"url": file.as_uri()}
    path = find_weights(config, "mine", required=True)
    assert path == tmp_path / "hub" / "checkpoints" / file.name
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_weights(config, "mine", required=True) == path  # from the cache
    path.unlink()
    with pytest.raises(SegkitError, match="HF_HUB_OFFLINE is set"):
        find_weights(config, "mine", required=True)


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
