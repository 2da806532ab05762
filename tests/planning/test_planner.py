"""What is chosen, and why: by the data set, by the machine, and by what the user gave."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from segkit.checkpoint.values import LabelCoding, Normalization
from segkit.config.compose import compose
from segkit.config.openings import OPENINGS
from segkit.config.schema import TrainConfig
from segkit.config.validation import validate
from segkit.core.machine import Machine
from segkit.core.memory import GB
from segkit.data.checks.summary import DataSummary, Measures
from segkit.data.sources.base import Sample
from segkit.planning import measuring
from segkit.planning.network import Network
from segkit.planning.plan import draw_table, plan, plan_for_this_machine

CPU, GPU = Machine("cpu", 24 * GB, 2), Machine("cuda", 24 * GB, 8)
RESNET18 = Network(14_300_000, 1280.0, 165_000.0, multiple=32, layer_norm=False)


def summary(
    count: int = 100,
    median: tuple[int, int] = (300, 400),
    diameter: float | None = 30.0,
    shares: tuple[float, ...] = (0.8, 0.2),
    **changes: Any,
) -> DataSummary:
    """A data set of grey images with background and cells, with these changes."""
    return DataSummary(
        splits={
            "train": [Sample(str(i)) for i in range(count)],
            "val": [Sample(f"v{i}") for i in range(changes.get("val", max(1, count // 5)))],
            "test": [],
        },
        in_channels=changes.get("channels", 1),
        num_classes=len(shares),
        class_names=("background", *(f"class {i}" for i in range(1, len(shares)))),
        coding=LabelCoding({}, foreground=changes.get("ids", False)),
        normalization=Normalization(changes.get("dtype", "uint8"), 0, 255, (0.5,), (0.2,)),
        sizes={},
        class_share=shares,
        train_share=shares,
        measures=Measures(
            median,
            changes.get("largest", median),
            diameter,
            changes.get("upright", False),
            changes.get("sides", {}),
        ),
        notes=[],
    )


@lru_cache
def checked(*overrides: str) -> TrainConfig:
    return validate(compose(list(overrides)))


def plain(settings: TrainConfig) -> Any:
    return OmegaConf.create(settings.to_plain())


def planned(
    *overrides: str, data: DataSummary | None = None, machine: Machine = CPU, **network: Any
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """The config, and by key what was chosen and why."""
    options = [] if any(o.startswith("plan=") for o in overrides) else ["plan=auto"]
    costs = Network(**{**vars(RESNET18), **network})
    found, choices = plan(checked(*options, *overrides), data or summary(), machine, costs)
    config = plain(found)
    assert not found.open_keys
    assert validate(config) == found
    assert all(choice.why for choice in choices)
    return config, {c.key: c.value for c in choices}, {c.key: c.why for c in choices}


# --- the config ----------------------------------------------------------------------------------


def test_everything_is_chosen_and_stands_in_the_config():
    config, chosen, _ = planned()
    assert set(chosen) == {*OPENINGS, "data.normalize"}
    assert tuple(config.data.crop_size) == chosen["data.crop_size"]
    for key in ("data.batch_size", "trainer.ema"):
        assert OmegaConf.select(config, key) == chosen[key]
    for group in ("loss", "augment", "scheduler"):
        assert config[group] == compose([f"{group}={chosen[group]}"])[group]


def test_only_what_is_open_is_chosen():
    config, chosen, _ = planned("plan=none", "loss=auto", "data.batch_size=auto")
    assert set(chosen) == {"loss", "data.batch_size", "data.normalize"}
    assert config.data.crop_size == [128, 128]
    config, chosen, _ = planned("plan=none", "data.normalize=dataset")
    assert chosen == {}
    assert config == plain(checked("data.normalize=dataset"))


def test_the_table_reproduces_the_config_as_a_command_line():
    data = summary(count=30, median=(360, 480), upright=True, shares=(0.5, 0.495, 0.005))
    settings, choices = plan(checked("plan=auto"), data, GPU, RESNET18)
    rows = [choice.as_row() for choice in choices]
    given = [f"{row['key']}={row['value']}" for row in rows]
    assert checked(*given).to_plain() == settings.to_plain()
    table = draw_table(choices, GPU)
    assert (table.row_count, len(table.columns)) == (len(choices), 3)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.crop_size=192", "data.crop_size", [192, 192]),
        ("data.batch_size=3", "data.batch_size", 3),
        ("data.samples_per_epoch=77", "data.samples_per_epoch", 77),
        ("data.foreground_share=0.9", "data.foreground_share", 0.9),
        ("data.normalize=dataset", "data.normalize", "dataset"),
        ("loss=dice", "loss.name", "dice"),
        ("augment=none", "augment.transforms", []),
        ("augment.mixes=[cutmix]", "augment.mixes", ["cutmix"]),
        ("augment.mixup=0.4", "augment.mixup", 0.4),
        ("scheduler=poly", "scheduler.name", "poly"),
        ("optimizer=sgd", "optimizer.lr", 0.01),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("trainer.max_epochs=7", "trainer.max_epochs", 7),
        ("trainer.ema=0.9", "trainer.ema", 0.9),
        ("trainer=default", "trainer.max_epochs", None),
    ],
)
def test_what_is_given_stays(override, key, value):
    config, chosen, _ = planned(override, "plan=auto")
    assert OmegaConf.select(config, key) == value
    assert key not in chosen


def test_an_experiment_goes_before_the_plan():
    config, chosen, _ = planned("experiment=camvid", "data.root=x")
    assert (config.trainer.max_epochs, config.trainer.ema) == (30, 0.99)
    assert config.augment == compose(["augment=medium"]).augment
    assert config.data.samples_per_epoch == 148
    assert {"data.crop_size", "data.batch_size", "loss", "optimizer.lr"} <= set(chosen)


def test_an_experiment_may_ask_for_the_plan(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /plan: auto\n\ndata: {batch_size: 5}\n"
    )
    config = compose(["experiment=mine"], config_dir=tmp_path)
    assert (config.data.batch_size, config.data.crop_size) == (5, "auto")


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "machine", "size", "why"),
    [
        ({}, GPU, (256, 256), "4 typical objects of 30 px, but at least 256"),
        ({"median": (900, 900), "diameter": 100.0}, GPU, (384, 384), "4 typical objects of 100 px"),
        ({"median": (2000, 2000), "diameter": 500.0}, GPU, (1024, 1024), "but at most 1024"),
        ({"median": (900, 900), "diameter": 100.0}, CPU, (256, 256), "at most 256 without a GPU"),
        ({"median": (128, 128)}, CPU, (128, 128), "the whole image, of 128 x 128"),
        ({"median": (7, 5), "diameter": None}, CPU, (5, 5), "square"),
        ({"median": (96, 128)}, CPU, (96, 96), "at least 256 where the images allow it; square"),
        ({"median": (280, 280)}, CPU, (256, 256), "the whole image, of 280 x 280"),
        ({"median": (600, 600), "diameter": None}, CPU, (256, 256), "no objects, but at least 256"),
        ({"median": (100, 2000), "diameter": 10.0}, CPU, (114, 114), "square, to be turned"),
        (
            {"median": (360, 480), "diameter": 200.0, "upright": True},  # never turned
            GPU,
            (352, 480),
            "the whole image, of 360 x 480",
        ),
    ],
)
def test_crops(data, machine, size, why):
    _, chosen, reasons = planned(data=summary(**data), machine=machine)
    assert chosen["data.crop_size"] == size
    assert why in reasons["data.crop_size"]


def test_crops_follow_the_augmentation_and_the_backbone():
    assert planned("augment=light", data=summary(median=(7, 5)))[1]["data.crop_size"] == (7, 5)
    _, chosen, reasons = planned(data=summary(median=(900, 900)), largest=224)
    assert chosen["data.crop_size"] == (224, 224)
    assert "encoder.img_size" in reasons["data.crop_size"]


@pytest.mark.parametrize(
    ("machine", "crop", "batch", "key", "why"),
    [
        (Machine("cuda", 12 * GB, 8), 256, 4, "data.batch_size", "half of which"),
        (Machine("cuda", 4 * GB, 8), 192, 2, "data.crop_size", "do not fit"),
        (Machine("cpu", GB // 10, 1), 64, 2, "data.batch_size", "it may not fit"),
    ],
)
def test_crop_and_batch_fit_the_memory(machine, crop, batch, key, why):
    # a crop of 256 x 256 takes 1.3 GB
    _, chosen, reasons = planned(machine=machine, bytes_per_pixel=20_000.0)
    assert (chosen["data.crop_size"], chosen["data.batch_size"]) == ((crop, crop), batch)
    assert why in reasons[key]


@pytest.mark.parametrize(
    ("machine", "data", "batch", "val_batch"),
    [
        (CPU, {}, 8, 8),
        (GPU, {}, 16, 8),
        (GPU, {"median": (2000, 2000), "diameter": 500.0}, 4, 7),
        (GPU, {"largest": (4000, 6000)}, 16, 1),
    ],
)
def test_batches_follow_the_machine_and_the_images(machine, data, batch, val_batch):
    _, chosen, _ = planned(data=summary(**data), machine=machine)
    assert (chosen["data.batch_size"], chosen["data.val_batch_size"]) == (batch, val_batch)


@pytest.mark.parametrize(
    ("dtype", "weights", "expected"),
    [
        ("uint16", "auto", "dataset"),
        ("float32", "auto", "dataset"),
        ("uint8", "false", "dataset"),
        ("uint8", "auto", "auto"),
    ],
)
def test_intensities(dtype, weights, expected):
    config, chosen, _ = planned(f"encoder.pretrained={weights}", data=summary(dtype=dtype))
    assert chosen["data.normalize"] == config.data.normalize == expected


@pytest.mark.parametrize(
    ("data", "loss", "foreground"),
    [
        ({"shares": (0.8, 0.2)}, "dice_ce", 0),
        ({"shares": (0.95, 0.05)}, "dice_ce", 0.33),
        ({"shares": (0.6, 0.395, 0.005, 0.0)}, "dice_focal", 0.5),  # the last one never occurs
        ({"shares": (0.02, 0.98)}, "dice_ce", 0),  # a rare background needs no such crops
        ({"shares": (0.995, 0.005), "median": (128, 128)}, "dice_focal", 0),  # nor whole images
    ],
)
def test_rare_classes_are_helped(data, loss, foreground):
    head = "binary" if len(data["shares"]) == 2 else "multiclass"
    _, chosen, reasons = planned(f"head={head}", data=summary(**data))
    assert (chosen["loss"], chosen["data.foreground_share"]) == (loss, foreground)
    assert loss == "dice_ce" or "has 0.50% of the pixels" in reasons["loss"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"channels": 1, "upright": False}, "microscopy"),
        ({"channels": 1, "upright": None, "count": 5}, "microscopy"),
        ({"channels": 3, "upright": None, "count": 5}, "strong"),
        ({"channels": 3, "upright": None, "count": 5, "ids": True}, "microscopy"),
        ({"channels": 3, "upright": False}, "microscopy"),
        ({"channels": 1, "upright": True}, "strong"),
        ({"channels": 3, "upright": True, "count": 1000}, "medium"),
        ({"channels": 1, "upright": False, "count": 5000}, "turns"),
        ({"channels": 1, "upright": False, "sides": {"above": "a is above b"}}, "strong"),
        ({"channels": 3, "upright": True, "sides": {"left of": "a is left of b"}}, "oriented"),
    ],
)
def test_augmentation(data, expected):
    _, chosen, reasons = planned(data=summary(**data), machine=GPU)
    assert chosen["augment"] == expected
    assert f"{data.get('count', 100)} images" in reasons["augment"]


@pytest.mark.parametrize(
    ("steps", "upright", "turned"),
    [(30, "light", "light"), (200, "medium", "turns"), (1000, "strong", "microscopy")],
)
def test_short_trainings_have_no_time_for_much_augmentation(steps, upright, turned):
    for up, expected in ((True, upright), (False, turned)):
        data = summary(count=100, median=(256, 256), upright=up)
        _, chosen, reasons = planned(f"trainer.max_steps={steps}", data=data)
        assert chosen["augment"] == expected
        assert f"seen {round(steps * 8 / 100)} times" in reasons["augment"]


@pytest.mark.parametrize(
    ("count", "machine", "flops", "crops"),
    [
        (5, CPU, None, 500 * 8),
        (5, GPU, None, 2000 * 16),
        (2000, GPU, None, 60 * 2000 * 300 * 400 / 256**2),
        (100_000, GPU, None, 20_000 * 16),
        # 120 billion operations a second for half an hour, less the validation
        (2000, CPU, None, 0.8 * 1800 * 120e9 / (3 * 165_000 * 256**2)),
        (2000, CPU, 1e8, 300 * 8),
    ],
)
def test_the_length_follows_images_device_and_network(count, machine, flops, crops):
    network = {"flops_per_pixel": flops} if flops else {}
    _, chosen, _ = planned(data=summary(count), machine=machine, **network)
    length = chosen["trainer.max_epochs"] * chosen["data.samples_per_epoch"]
    assert length == pytest.approx(crops, rel=0.1)


@pytest.mark.parametrize(("val", "epochs"), [(20, 30), (500, 4)])
def test_validation_takes_its_share_and_no_more(val, epochs):
    chosen = planned(data=summary(count=100, val=val))[1]
    assert chosen["trainer.max_epochs"] == pytest.approx(epochs, abs=1)


def test_the_plan_respects_what_ends_the_training():
    _, chosen, reasons = planned("trainer.max_steps=400")
    assert chosen["trainer.max_epochs"] is None
    assert reasons["trainer.max_epochs"] == "trainer.max_steps=400"
    assert chosen["data.samples_per_epoch"] == pytest.approx(400 * 8 / 30, abs=16)
    _, chosen, reasons = planned("trainer.max_time=00:00:10:00")
    assert chosen["trainer.max_epochs"] is None
    assert reasons["trainer.max_epochs"] == "trainer.max_time=00:00:10:00"
    fewer = planned("trainer.max_time=00:00:01:00")[1]["data.samples_per_epoch"]
    assert fewer < chosen["data.samples_per_epoch"]
    _, chosen, _ = planned("data.samples_per_epoch=10", machine=GPU)
    assert chosen["trainer.max_epochs"] == 3200
    _, chosen, reasons = planned("trainer.max_epochs=-1", "trainer.early_stopping=5")
    assert (chosen["scheduler"], chosen["augment"]) == ("constant", "microscopy")
    assert "inf" not in reasons["augment"]
    _, chosen, _ = planned("trainer.max_epochs=-1", "trainer.max_time=00:00:10:00")
    assert chosen["scheduler"] == "one_cycle"


def test_the_learning_rate_follows_optimizer_batch_and_encoder():
    assert planned()[1]["optimizer.lr"] == 0.001
    assert planned("data.batch_size=2")[1]["optimizer.lr"] == 0.0005
    assert planned(layer_norm=True)[1]["optimizer.lr"] == 0.0003
    sgd = planned("optimizer=sgd", "optimizer.lr=auto", "data.batch_size=4")[1]
    assert sgd["optimizer.lr"] == 0.005
    two = Machine("cuda", 24 * GB, 8, devices=2)
    _, chosen, _ = planned("trainer.accumulate_grad_batches=2", machine=two)
    assert chosen["optimizer.lr"] == pytest.approx(0.001 * (16 * 4 / 8) ** 0.5, rel=0.05)
    assert chosen["data.samples_per_epoch"] % (16 * 4) == 0


@pytest.mark.parametrize(
    ("steps", "schedule", "decay"),
    [(100, "one_cycle", None), (1000, "one_cycle", 0.99), (20_000, "cosine", 0.999)],
)
def test_schedule_and_average_follow_the_length(steps, schedule, decay):
    _, chosen, _ = planned(f"trainer.max_steps={steps}")
    assert (chosen["scheduler"], chosen["trainer.ema"]) == (schedule, decay)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    data=st.fixed_dictionaries(
        {
            "count": st.sampled_from([1, 2, 7, 150, 3000]),
            "val": st.sampled_from([1, 10, 2000]),
            "diameter": st.none() | st.floats(1, 3000),
            "upright": st.sampled_from([None, True, False]),
            "ids": st.booleans(),
            "shares": st.sampled_from([(1.0, 0.0), (0.5, 0.5), (0.999, 0.001), (0.3, 0.3, 0.4)]),
        }
    ),
    machine=st.builds(
        Machine,
        st.sampled_from(["cpu", "cuda", "mps"]),
        st.integers(GB // 10, 200 * GB),
        st.integers(1, 64),
        st.integers(1, 4),
    ),
    multiple=st.sampled_from([1, 14, 32, 64]),
    cost=st.floats(10, 1e6),
)
def test_every_plan_can_be_trained(size, data, machine, multiple, cost):
    head = "multiclass" if len(data["shares"]) > 2 else "binary"
    network = {"multiple": multiple, "bytes_per_pixel": cost, "flops_per_pixel": 100 * cost}
    images = summary(median=size, **data)
    _, chosen, _ = planned(f"head={head}", data=images, machine=machine, **network)
    rows, columns = chosen["data.crop_size"]
    assert 1 <= rows <= 1.125 * 1024
    assert 1 <= columns <= 1.125 * 1024
    assert rows <= size[0] + multiple or rows == columns
    assert chosen["data.batch_size"] in range(2, 17)
    assert chosen["data.samples_per_epoch"] >= chosen["data.batch_size"]
    assert chosen["trainer.max_epochs"] >= 1


# --- measured steps ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixed", "per_crop", "batch"),
    [(0.001, 0.001, 16), (0.010, 0.001, 30), (0.100, 0.001, 32), (0.010, 0.100, 16)],
)
def test_a_batch_is_so_large_that_the_fixed_time_of_a_step_is_small(fixed, per_crop, batch):
    per_pixel = per_crop / 256**2
    _, chosen, _ = planned(machine=GPU, seconds_per_pixel=per_pixel, step_seconds=fixed)
    assert (chosen["data.crop_size"], chosen["data.batch_size"]) == ((256, 256), batch)


def test_steps_follow_the_measured_time():
    options = ["trainer.max_time=00:00:01:00", "data.batch_size=10", "data.samples_per_epoch=10"]
    per_pixel = 0.01 / 256**2
    _, _, reasons = planned(*options, machine=GPU, seconds_per_pixel=per_pixel, step_seconds=0.02)
    # 48 of the 60 seconds are for training, and a step takes 0.12
    assert "400 steps" in reasons["scheduler"]
    two = Network(**{**vars(RESNET18), "seconds_per_pixel": per_pixel, "step_seconds": 0.02})
    machine = Machine("cuda", 24 * GB, 8, devices=2)
    assert two.time_step((256, 256), 20, machine) == pytest.approx(0.12)


def test_steps_are_measured_with_two_batches(monkeypatch):
    taken = {2: (0.012, 3e9), 32: None, 16: None, 8: (0.018, 9e9), 4: (2.0, 1.0)}
    asked = []

    def take(settings, in_channels, num_classes, size, batch, device):
        asked.append(batch)
        return taken[batch]

    monkeypatch.setattr(measuring, "_take_steps", take)
    found = measuring.measure_steps(RESNET18, checked(), 1, 2, (100, 200), 32, "cuda:0")
    assert asked == [2, 32, 16, 8]  # those between do not fit
    assert found.seconds_per_pixel * 20_000 == pytest.approx(0.001)
    assert found.step_seconds == pytest.approx(0.010)
    assert found.bytes_per_pixel * 20_000 == pytest.approx(1e9)
    taken[2], asked[:] = (0.3, 1.0), []
    measuring.measure_steps(RESNET18, checked(), 1, 2, (100, 200), 32, "cuda:0")
    assert asked == [2, 4]  # more would take too long
    taken[2], asked[:] = (30.0, 1.0), []
    found = measuring.measure_steps(RESNET18, checked(), 1, 2, (100, 200), 32, "cuda:0")
    assert (asked, found.step_seconds) == ([2], 0)
    assert found.seconds_per_pixel == pytest.approx(15 / 20_000)
    taken[2] = None
    assert measuring.measure_steps(RESNET18, checked(), 1, 2, (100, 200), 32, "cuda:0") == RESNET18


def test_on_a_cpu_only_a_training_with_a_time_limit_is_measured(monkeypatch, capsys):
    """Others are the same to the bit whenever they are repeated, and so are their plans."""
    asked = []

    def measure(network, settings, in_channels, num_classes, size, batch, device):
        asked.append(device)
        return replace(network, seconds_per_pixel=1e-6, step_seconds=0.1)

    monkeypatch.setattr("segkit.planning.plan.measure_steps", measure)
    for options in ([], ["trainer.max_time=00:00:02:00"]):
        settings = checked("plan=auto", "trainer.accelerator=cpu", *options)
        plan_for_this_machine(settings, summary(), 2, Console())
    assert asked == ["cpu"]
    assert "measured: 1000 steps take" in capsys.readouterr().out


def test_measuring_takes_real_steps_and_none_of_the_random_numbers(monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", 1e6)  # however busy the machine is
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    settings = checked("encoder=unet", "encoder.width=4", "encoder.depth=3")
    found = measuring.measure_steps(RESNET18, settings, 1, 2, (32, 64), 6, "cpu")
    assert torch.equal(torch.rand(3), expected)
    assert found.seconds_per_pixel > 0
    assert found.bytes_per_pixel == RESNET18.bytes_per_pixel  # the CPU's is not known
