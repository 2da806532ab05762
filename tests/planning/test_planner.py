"""What is chosen, and why: by the data set, by the machine, and by what the user gave."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.config.compose import compose
from segkit.config.openings import OPENINGS
from segkit.config.schema import TrainConfig
from segkit.config.validation import validate
from segkit.core.machine import GB, Machine
from segkit.data.checks.checking import DataSummary, Measures
from segkit.data.sources.base import Sample
from segkit.planning.network import Network
from segkit.planning.plan import draw_table, plan

CPU, GPU = Machine("cpu", 24 * GB, 2), Machine("cuda", 24 * GB, 8)
RESNET18 = Network(14_300_000, 1280.0, 165_000.0, multiple=32, layer_norm=False)


def summary(
    count: int = 100,
    median: tuple[int, int] = (300, 400),
    diameter: float | None = 30.0,
    shares: tuple[float, ...] = (0.8, 0.2),
    **changes: Any,
) -> DataSummary:
    """A data set of grey images with background and cells, but for what is said."""
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
        one_size={"train": True, "val": True, "test": True},
        class_share=shares,
        measures=Measures(
            median, changes.get("largest", median), diameter, changes.get("upright", False)
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


def test_everything_is_chosen_and_stands_in_the_config() -> None:
    config, chosen, _ = planned()
    assert set(chosen) == {*OPENINGS, "data.normalize"}
    assert tuple(config.data.crop_size) == chosen["data.crop_size"]
    assert config.data.batch_size == chosen["data.batch_size"]
    assert config.loss == compose([f"loss={chosen['loss']}"]).loss
    assert config.augment == compose([f"augment={chosen['augment']}"]).augment
    assert config.scheduler == compose([f"scheduler={chosen['scheduler']}"]).scheduler
    assert config.trainer.ema == chosen["trainer.ema"]


def test_the_table_reproduces_the_config_as_a_command_line() -> None:
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
        ("data.crop_size=[64,96]", "data.crop_size", [64, 96]),
        ("data.batch_size=3", "data.batch_size", 3),
        ("data.samples_per_epoch=77", "data.samples_per_epoch", 77),
        ("data.samples_per_epoch=null", "data.samples_per_epoch", None),
        ("data.foreground_share=0.9", "data.foreground_share", 0.9),
        ("data.normalize=dataset", "data.normalize", "dataset"),
        ("loss=dice", "loss.name", "dice"),
        ("augment=none", "augment.transforms", []),
        ("scheduler=poly", "scheduler.name", "poly"),
        ("optimizer=sgd", "optimizer.lr", 0.01),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("trainer.max_epochs=7", "trainer.max_epochs", 7),
        ("trainer.ema=0.9", "trainer.ema", 0.9),
        ("trainer=default", "trainer.max_epochs", None),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_is_given_stays(override: str, key: str, value: Any, first: bool) -> None:
    both = ["plan=auto", override] if first else [override, "plan=auto"]
    config, chosen, _ = planned(*both)
    assert OmegaConf.select(config, key) == value
    assert key not in chosen


def test_an_experiment_goes_before_the_plan() -> None:
    config, chosen, _ = planned("experiment=camvid", "data.root=x")
    assert (config.trainer.max_epochs, config.trainer.ema) == (30, 0.99)
    assert config.augment == compose(["augment=medium"]).augment
    assert config.data.samples_per_epoch == 148
    assert {"data.crop_size", "data.batch_size", "loss", "optimizer.lr"} <= set(chosen)


def test_an_experiment_may_ask_for_the_plan(tmp_path: Any) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /plan: auto\n\ndata: {batch_size: 5}\n"
    )
    config = compose(["experiment=mine"], config_dir=tmp_path)
    assert (config.data.batch_size, config.data.crop_size) == (5, "auto")


def test_one_value_can_be_left_to_the_planner() -> None:
    config, chosen, _ = planned("plan=none", "loss=auto", "data.batch_size=auto")
    assert set(chosen) == {"loss", "data.batch_size", "data.normalize"}
    assert config.data.crop_size == [128, 128]


def test_without_openings_nothing_is_chosen() -> None:
    config, chosen, _ = planned("plan=none", "data.normalize=dataset")
    assert chosen == {}
    assert config == plain(checked("data.normalize=dataset"))


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("median", "diameter", "machine", "size", "why"),
    [
        ((300, 400), 30.0, GPU, (256, 256), "4 typical objects of 30 px, but at least 256"),
        ((900, 900), 100.0, GPU, (384, 384), "4 typical objects of 100 px"),
        ((2000, 2000), 500.0, GPU, (1024, 1024), "but at most 1024"),
        ((900, 900), 100.0, CPU, (256, 256), "but at most 256 without a GPU"),
        ((128, 128), 22.0, CPU, (128, 128), "the whole image, of 128 x 128"),
        ((7, 5), 3.0, CPU, (5, 5), "square"),
        ((7, 5), None, CPU, (5, 5), "square"),
        ((280, 280), 22.0, CPU, (256, 256), "the whole image, of 280 x 280"),
        ((600, 600), None, CPU, (256, 256), "no objects, but at least 256"),
        ((100, 2000), 10.0, CPU, (114, 114), "square, to be turned"),
    ],
)
def test_crops(
    median: tuple[int, int], diameter: float | None, machine: Machine, size: Any, why: str
) -> None:
    _, chosen, reasons = planned(data=summary(median=median, diameter=diameter), machine=machine)
    assert chosen["data.crop_size"] == size
    assert why in reasons["data.crop_size"]


def test_crops_that_are_not_turned_may_be_wide() -> None:
    data = summary(median=(360, 480), diameter=200.0, upright=True)
    _, chosen, reasons = planned(data=data, machine=GPU)
    assert chosen["data.crop_size"] == (352, 480)
    assert reasons["data.crop_size"] == "the whole image, of 360 x 480"
    assert planned("augment=light", data=summary(median=(7, 5)))[1]["data.crop_size"] == (7, 5)


def test_crops_fit_a_backbone_of_one_size() -> None:
    _, chosen, reasons = planned(data=summary(median=(900, 900)), largest=224)
    assert chosen["data.crop_size"] == (224, 224)
    assert "encoder.img_size" in reasons["data.crop_size"]


def test_crop_and_batch_fit_the_memory() -> None:
    big = {"bytes_per_pixel": 20_000.0}  # a crop of 256 x 256 takes 1.3 GB
    _, chosen, reasons = planned(machine=Machine("cuda", 12 * GB, 8), **big)
    assert chosen["data.crop_size"] == (256, 256)
    assert chosen["data.batch_size"] == 4
    assert "of which half" in reasons["data.batch_size"]
    _, chosen, reasons = planned(machine=Machine("cuda", 4 * GB, 8), **big)
    assert chosen["data.crop_size"] == (192, 192)
    assert chosen["data.batch_size"] == 2
    assert "do not fit" in reasons["data.crop_size"]
    _, chosen, reasons = planned(machine=Machine("cpu", GB // 10, 1), **big)
    assert chosen["data.crop_size"] == (64, 64)
    assert "it may not fit" in reasons["data.batch_size"]


def test_larger_batches_on_a_gpu_and_of_smaller_crops() -> None:
    assert planned()[1]["data.batch_size"] == 8
    assert planned(machine=GPU)[1]["data.batch_size"] == 16
    large = summary(median=(2000, 2000), diameter=500.0)
    assert planned(data=large, machine=GPU)[1]["data.batch_size"] == 4


def test_whole_images_of_the_validation_fit_the_memory() -> None:
    data = summary(largest=(4000, 6000))
    assert planned(data=data, machine=GPU)[1]["data.val_batch_size"] == 1
    assert planned(machine=GPU)[1]["data.val_batch_size"] == 8


@pytest.mark.parametrize(
    ("data", "encoder", "expected"),
    [
        ({"dtype": "uint16"}, "auto", "dataset"),
        ({"dtype": "float32"}, "auto", "dataset"),
        ({}, "false", "dataset"),
        ({}, "auto", "auto"),
        ({}, "true", "auto"),
    ],
)
def test_intensities(data: dict[str, Any], encoder: str, expected: str) -> None:
    config, chosen, _ = planned(f"encoder.pretrained={encoder}", data=summary(**data))
    assert chosen["data.normalize"] == config.data.normalize == expected


def test_rare_classes_are_helped() -> None:
    _, chosen, _ = planned()
    assert (chosen["loss"], chosen["data.foreground_share"]) == ("dice_ce", 0.0)
    _, chosen, reasons = planned(data=summary(shares=(0.95, 0.05)))
    assert (chosen["loss"], chosen["data.foreground_share"]) == ("dice_ce", 0.33)
    rare = summary(shares=(0.6, 0.395, 0.005, 0.0))  # the last one never occurs
    _, chosen, reasons = planned("head=multiclass", data=rare)
    assert (chosen["loss"], chosen["data.foreground_share"]) == ("dice_focal", 0.5)
    assert "'class 2' has 0.50% of the pixels" in reasons["loss"]
    # a rare background is no reason to go to the foreground
    assert planned(data=summary(shares=(0.02, 0.98)))[1]["data.foreground_share"] == 0
    whole = summary(shares=(0.995, 0.005), median=(128, 128))
    assert planned(data=whole)[1]["data.foreground_share"] == 0


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
    ],
)
def test_augmentation(data: dict[str, Any], expected: str) -> None:
    _, chosen, reasons = planned(data=summary(**data), machine=GPU)
    assert chosen["augment"] == expected
    assert f"{data.get('count', 100)} images" in reasons["augment"]


@pytest.mark.parametrize(
    ("upright", "steps", "expected"),
    [
        (True, 30, "light"),
        (True, 200, "medium"),
        (True, 1000, "strong"),
        (False, 30, "light"),
        (False, 200, "turns"),
        (False, 1000, "microscopy"),
    ],
)
def test_short_trainings_have_no_time_for_much_augmentation(
    upright: bool, steps: int, expected: str
) -> None:
    data = summary(count=100, median=(256, 256), upright=upright)
    _, chosen, reasons = planned(f"trainer.max_steps={steps}", data=data)
    assert chosen["augment"] == expected
    assert f"seen {round(steps * 8 / 100)} times" in reasons["augment"]


def test_an_endless_training_is_long() -> None:
    _, chosen, reasons = planned("trainer.max_epochs=-1", "trainer.early_stopping=5")
    assert chosen["augment"] == "microscopy"
    assert "inf" not in reasons["augment"]


def test_the_length_follows_images_device_and_network() -> None:
    def length(**options: Any) -> int:
        chosen = planned(**options)[1]
        return chosen["trainer.max_epochs"] * chosen["data.samples_per_epoch"]

    assert length(data=summary(5)) == pytest.approx(500 * 8, rel=0.1)
    assert length(data=summary(5), machine=GPU) == pytest.approx(2000 * 16, rel=0.1)
    assert length(data=summary(2000), machine=GPU) == pytest.approx(
        60 * 2000 * 300 * 400 / 256**2, rel=0.1
    )
    assert length(data=summary(100_000), machine=GPU) == pytest.approx(20_000 * 16, rel=0.1)
    # 120 billion operations a second for half an hour, less the validation
    by_time = 0.8 * 1800 * 120e9 / (3 * 165_000 * 256**2)
    assert length(data=summary(2000)) == pytest.approx(by_time, rel=0.1)
    assert length(data=summary(2000), flops_per_pixel=1e8) == pytest.approx(300 * 8, rel=0.1)
    assert "very roughly 30 min" in planned(data=summary(2000))[2]["trainer.max_epochs"]


def test_validation_takes_its_share_and_no_more() -> None:
    assert planned()[1]["trainer.max_epochs"] == pytest.approx(30, abs=1)
    much = summary(count=100, val=500)
    assert planned(data=much)[1]["trainer.max_epochs"] == pytest.approx(4, abs=1)


def test_what_ends_the_training_is_reckoned_with() -> None:
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
    _, chosen, _ = planned("trainer.max_epochs=-1", "trainer.early_stopping=5")
    assert chosen["scheduler"] == "constant"
    _, chosen, _ = planned("trainer.max_epochs=-1", "trainer.max_time=00:00:10:00")
    assert chosen["scheduler"] == "one_cycle"


def test_devices_and_accumulated_batches_make_a_larger_step() -> None:
    two = Machine("cuda", 24 * GB, 8, devices=2)
    _, chosen, _ = planned("trainer.accumulate_grad_batches=2", machine=two)
    assert chosen["optimizer.lr"] == pytest.approx(0.001 * (16 * 4 / 8) ** 0.5, rel=0.05)
    assert chosen["data.samples_per_epoch"] % (16 * 4) == 0


def test_the_learning_rate_follows_optimizer_batch_and_encoder() -> None:
    assert planned()[1]["optimizer.lr"] == 0.001
    assert planned("data.batch_size=2")[1]["optimizer.lr"] == 0.0005
    assert planned(layer_norm=True)[1]["optimizer.lr"] == 0.0003
    sgd = ["optimizer=sgd", "optimizer.lr=auto"]
    assert planned(*sgd, "data.batch_size=4")[1]["optimizer.lr"] == 0.005


def test_schedule_and_average_follow_the_length() -> None:
    def chosen(steps: int) -> tuple[str, float | None]:
        found = planned(f"trainer.max_steps={steps}")[1]
        return found["scheduler"], found["trainer.ema"]

    assert chosen(100) == ("one_cycle", None)
    assert chosen(1000) == ("one_cycle", 0.99)
    assert chosen(20_000) == ("cosine", 0.999)
    _, two, _ = planned("trainer.max_epochs=2", "data.samples_per_epoch=80")
    assert (two["scheduler"], two["trainer.ema"]) == ("one_cycle", None)


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([1, 2, 7, 150, 3000]),
    val=st.sampled_from([1, 10, 2000]),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    diameter=st.none() | st.floats(1, 3000),
    upright=st.sampled_from([None, True, False]),
    ids=st.booleans(),
    shares=st.sampled_from([(1.0, 0.0), (0.5, 0.5), (0.999, 0.001), (0.3, 0.3, 0.3, 0.1)]),
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
def test_every_plan_can_be_trained(
    count: int,
    val: int,
    height: int,
    width: int,
    machine: Machine,
    multiple: int,
    cost: float,
    **changes: Any,
) -> None:
    data = summary(count=count, val=val, median=(height, width), **changes)
    head = "multiclass" if data.num_classes > 2 else "binary"
    _, chosen, _ = planned(
        f"head={head}",
        data=data,
        machine=machine,
        multiple=multiple,
        bytes_per_pixel=cost,
        flops_per_pixel=100 * cost,
    )
    rows, columns = chosen["data.crop_size"]
    assert 1 <= rows <= 1.125 * 1024
    assert 1 <= columns <= 1.125 * 1024
    assert rows <= height + multiple or rows == columns
    assert chosen["data.batch_size"] in range(2, 17)
    assert chosen["data.samples_per_epoch"] >= chosen["data.batch_size"]
    assert chosen["trainer.max_epochs"] >= 1
