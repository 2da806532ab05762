"""init=CKPT: what a network takes from another one's checkpoint, and what it computes then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import train_quick
from omegaconf import OmegaConf
from torch.testing import assert_close

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import Normalization
from segkit.checkpoint.warm_start import adapt_channels, take_weights
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.writing import write_image, write_mask
from segkit.models.segmenter import create_model
from segkit.report.table import read_csv

FOLDER = ["data=folder", "data.root=."]
UNET = {"name": "unet", "depth": 3, "width": 4, "dropout": 0.0}


def build(mode, names, seed, encoder=UNET, neck="unet", channels=1, auxiliary=0, **head):
    """A network with random weights, and its card."""
    torch.manual_seed(seed)
    given = {"name": mode, **head}
    model = create_model(
        encoder, neck, given, num_classes=len(names), in_channels=channels, auxiliary=auxiliary
    )
    for layer in (model.head, *model.auxiliary):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
    card = ModelCard(
        encoder={k: v for k, v in encoder.items() if k != "in_channels"},
        neck={"name": neck},
        head=given,
        in_channels=channels,
        num_classes=len(names),
        auxiliary=auxiliary,
        img_size=(32, 32),
        class_names=tuple(names),
        class_colors=tuple((i, 0, 0) for i in range(len(names))),
        normalization=Normalization("uint8", 0, 255, (0.5,) * channels, (0.2,) * channels),
        mask_values=tuple(range(len(names))),
        background=0 if names[0] in ("background", "class 0") else None,
        mode=model.head.mode,
        config={"data": {"normalize": "auto"}},
        layout=model.encoder.layout(),
    )
    return model.eval(), card


@pytest.fixture
def start(tmp_path):
    """Give one network the weights of another; both, what was taken, and the new card."""

    def give(old, new):
        (source, old_card), (model, card) = old, new
        weights = {f"model.{key}": value for key, value in source.state_dict().items()}
        torch.save({"segkit": old_card.to_dict(), "state_dict": weights}, tmp_path / "old.ckpt")
        parts, card = take_weights(model, card, tmp_path / "old.ckpt")
        return source, model, {part.name: part for part in parts}, card

    return give


@torch.no_grad()
def compute(model, channels=1):
    image = torch.rand(2, channels, 30, 23, generator=torch.Generator().manual_seed(0))
    return model.head.activate(model(image))


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("binary", ("background", "cell")),
        ("multiclass", ("background", "cell", "debris")),
        ("multilabel", ("cell", "nucleus")),
    ],
)
def test_the_same_network_computes_the_same(mode, names, start):
    source, model, parts, _ = start(
        build(mode, names, 0, auxiliary=1), build(mode, names, 1, auxiliary=1)
    )
    assert all(part.taken == part.tensors for part in parts.values())
    assert parts["head"].notes == [f"classes kept: {', '.join(names)}"]
    image = torch.rand(1, 1, 20, 20)
    for one, other in zip(source.all_logits(image), model.all_logits(image), strict=True):
        assert torch.equal(one, other)


def test_new_classes_leave_the_probabilities_of_the_others(start):
    """Those of the new classes are equal shares of what the background had."""
    old = build("multiclass", ("background", "cell", "debris"), 0)
    names = ("background", "bubble", "debris", "cell", "fibre")
    source, model, parts, _ = start(old, build("multiclass", names, 1))
    before, after = compute(source), compute(model)
    assert_close(after[:, names.index("cell")], before[:, 1])
    assert_close(after[:, names.index("debris")], before[:, 2])
    for name in ("background", "bubble", "fibre"):
        assert_close(after[:, names.index(name)], before[:, 0] / 3)
    assert parts["head"].notes == [
        "classes kept: background, debris, cell",
        "new: bubble, fibre",
    ]


def test_classes_without_a_background_begin_anew(start):
    source, model, parts, _ = start(
        build("multiclass", ("road", "sky"), 0), build("multiclass", ("sky", "car"), 1)
    )
    rows, fresh = model.head.conv.weight, build("multiclass", ("sky", "car"), 1)[0].head.conv.weight
    assert torch.equal(rows[0], source.head.conv.weight[1])
    assert torch.equal(rows[1], fresh[1])
    assert parts["head"].notes == ["classes kept: sky", "new: car", "dropped: road"]


@pytest.mark.parametrize("other", ["multiclass", "multilabel"])
def test_heads_of_two_classes_become_each_other(other, start):
    names = ("background", "cell")
    source, model, _, _ = start(build("binary", names, 0), build(other, names, 1))
    assert_close(compute(model)[:, 1:], compute(source))
    source, model, _, _ = start(build("multiclass", names, 2), build("binary", names, 3))
    assert_close(compute(model), compute(source)[:, 1:])
    source, model, _, _ = start(build("multilabel", names, 2), build("binary", names, 3))
    assert_close(compute(model), compute(source)[:, 1:])


def test_a_binary_model_gets_more_classes(start):
    old = build("binary", ("background", "cell"), 0)
    source, model, _, _ = start(old, build("multiclass", ("background", "cell", "dust"), 1))
    before, after = compute(source), compute(model)
    assert_close(after[:, 1:2], before)
    assert_close(after[:, :1], (1 - before) / 2)


def test_classes_without_names_go_by_their_place(start):
    old = build("multiclass", ("class 0", "class 1", "class 2"), 0)
    new = build("multiclass", ("background", "cell", "dust", "fibre"), 1)
    source, model, _, _ = start(old, new)
    before, after = compute(source), compute(model)
    assert_close(after[:, 1:3], before[:, 1:])


def test_queries_keep_what_is_no_object(start):
    options = {"queries": 5, "width": 8, "layers": 1, "attention_heads": 2}
    old = build("queries", ("background", "cell"), 0, **options)
    new = build("queries", ("background", "dust", "cell"), 1, **options)
    source, model, parts, _ = start(old, new)
    given, rows = source.head.classify.weight, model.head.classify.weight
    assert torch.equal(rows[[0, 1, 2, 3]], given[[0, 0, 1, 2]])
    assert parts["head"].taken == parts["head"].tensors


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (4, 2), (2, 5)])
def test_equal_channels_give_what_they_gave(old, new, start):
    names = ("background", "cell")
    _, model, parts, _ = start(
        build("binary", names, 0, channels=old), build("binary", names, 1, channels=new)
    )
    assert parts["encoder"].notes == [f"image channels {old} -> {new}"]
    weight = torch.rand(6, old, 3, 3)
    grey = torch.rand(2, 1, 9, 9)
    adapted = adapt_channels(weight, new)
    if new == 1 or new % old == 0:  # otherwise some of the weights have no turn
        given = torch.conv2d(grey.expand(-1, new, -1, -1), adapted)
        assert_close(given, torch.conv2d(grey.expand(-1, old, -1, -1), weight))
    assert adapted.shape == (6, new, 3, 3)
    assert compute(model, new).isfinite().all()


def test_position_embeddings_are_resampled_and_adapters_start_at_zero(start):
    tiny = {"name": "test_vit", "pretrained": False, "img_size": 32}
    names = ("background", "cell")
    source, model, parts, _ = start(
        build("binary", names, 0, tiny, "fpn", 3),
        build("binary", names, 1, {**tiny, "adapter": "lora"}, "fpn", 3),
    )
    assert parts["encoder"].taken == parts["encoder"].tensors
    assert_close(compute(model, 3), compute(source, 3))
    larger = {**tiny, "img_size": 64}
    old = build("binary", names, 0, tiny, "fpn", 3)
    _, _, parts, _ = start(old, build("binary", names, 1, larger, "fpn", 3))
    assert parts["encoder"].taken == parts["encoder"].tensors


def test_another_neck_begins_anew(start):
    names = ("background", "cell")
    _, _, parts, _ = start(
        build("binary", names, 0, auxiliary=1), build("binary", names, 1, neck="fpn", auxiliary=1)
    )
    assert parts["encoder"].taken == parts["encoder"].tensors
    assert parts["neck"].taken == parts["auxiliary head 1"].taken == 0
    assert parts["neck"].notes == ["anew, the checkpoint has unet"]
    assert parts["head"].notes == [
        "the classes anew, the neck's map has another number of channels"
    ]


def test_encoders_that_do_not_fit(start):
    names = ("background", "cell")
    other = {"name": "test_resnet", "pretrained": False}
    tagged = {**other, "name": "test_resnet.r160_in1k"}  # the same network, with other weights
    parts = start(
        build("binary", names, 0, other, channels=3), build("binary", names, 1, tagged, channels=3)
    )[2]
    assert parts["encoder"].taken == parts["encoder"].tensors
    with pytest.raises(SegkitError, match="add encoder=unet neck=unet"):
        start(build("binary", names, 0), build("binary", names, 1, other))
    with pytest.raises(SegkitError, match=r"take its options, encoder.width=4\."):
        start(build("binary", names, 0), build("binary", names, 1, {**UNET, "width": 6}))


def test_the_normalisation_comes_along_for_images_of_8_bits(start):
    names = ("background", "cell")
    old_model, old = build("binary", names, 0)
    model, card = build("binary", names, 1)
    there = Normalization("uint8", 0, 255, (0.3,), (0.1,))
    old = replace(old, normalization=there, pretrained_from="a file")
    found = start((old_model, old), (model, card))[3]
    assert (found.normalization, found.pretrained_from) == (there, "a file")
    asked = replace(card, config={"data": {"normalize": "dataset"}})
    assert start((old_model, old), (model, asked))[3].normalization == card.normalization
    deep = replace(card, normalization=Normalization("uint16", 0, 4095, (0.3,), (0.1,)))
    assert start((old_model, old), (model, deep))[3].normalization == deep.normalization


def test_a_training_starts_with_them_and_resumes_without_the_file(binary_run, tmp_path):
    checkpoint_file = tmp_path / "given.ckpt"
    checkpoint_file.write_bytes(binary_run.checkpoint.read_bytes())
    options = ["optimizer.lr=1e-12", "optimizer.weight_decay=0", "scheduler=constant"]
    run = train_quick(tmp_path / "run", f"init='{checkpoint_file}'", *options)
    given, made = (checkpoint.read(each.checkpoint)[0] for each in (binary_run, run))
    for name, parameter in made.named_parameters():
        assert_close(parameter, dict(given.named_parameters())[name])
    rows = read_csv(run.folder / "init.csv")
    assert [(row["part"], row["taken"] == row["tensors"]) for row in rows] == [
        ("encoder", True),
        ("neck", True),
        ("head", True),
    ]
    checkpoint_file.unlink()
    resumed = f"resume='{run.folder}'", f"init='{checkpoint_file}'", "trainer.max_epochs=2"
    train_quick(run.folder, *resumed, *options)
    assert len(read_csv(run.folder / "metrics.csv")) == 2


def test_classes_are_added(binary_run, tmp_path, capsys):
    """The data know only the new one, whose value in masks is 1."""
    for i in range(6):
        cells = draw(i, (64, 64))
        write_image(tmp_path / f"set/images/{i}.png", cells.image)
        write_mask(tmp_path / f"set/masks/{i}.png", (cells.classes == 2).astype(np.uint8))
    options = ["head=multiclass", "head.num_classes=+", "data.class_names=[dust]"]
    options += ["data=folder", f"data.root='{tmp_path}/set'", f"init='{binary_run.checkpoint}'"]
    run = train_quick(tmp_path / "run", *options, "data.label_map={1: 2}")
    said = capsys.readouterr().out
    assert "classes by their numbers in the masks: 0 background, 1 cell, 2 dust" in said
    assert "classes kept: background, cell, new: dust" in said
    card = checkpoint.read(run.checkpoint)[1]
    assert card.class_names == ("background", "cell", "dust")
    assert len(set(card.mask_values)) == 3
    config = OmegaConf.load(run.folder / "config.yaml")
    assert config.head.num_classes == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*FOLDER, "init=null", "data.class_names=[dust]"], "give init=CKPT"),
        (
            [*FOLDER, "data.class_names=null"],
            "give only the names of new classes. The checkpoint has back",
        ),
        ([*FOLDER, "data.class_names=[background,dust]"], "from 2 on"),
        (["data=cells"], "data=cells names its classes itself"),
    ],
)
def test_classes_that_cannot_be_added(options, message, binary_run, tmp_path):
    given = ["head=multiclass", "head.num_classes=+", f"init='{binary_run.checkpoint}'"]
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path / "run", *given, *options)
    assert not (tmp_path / "run").exists()


def test_what_is_refused(tmp_path):
    with pytest.raises(SegkitError, match="there is no such file") as error:
        validate(compose(["init=nothing.ckpt", "trainer.save_frozen=false"]))
    assert "trainer.save_frozen=false with init" in str(error.value)
