"""The configurations that a search proposes for a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT

from segkit.config.settings import SearchSettings, check_settings
from segkit.core.errors import SegkitError
from segkit.core.machine import Machine
from segkit.core.memory import GB
from segkit.data.checks.summary import Measures
from segkit.planning.network import Network
from segkit.search import preparing
from segkit.search.candidates import ENCODERS, choose_neighbour, read_candidates
from segkit.search.command_line import gather_options, put_over, spell, split_axes
from segkit.search.preparing import compose_training, prepare

RESNET18 = Network(14_300_000, 1280.0, 165_000.0, multiple=32, layer_norm=False)
CPU, GPU = Machine("cpu", 24 * GB, 2), Machine("cuda", 24 * GB, 8)
CELLS = ["data=cells_small", "data.size=[96,96]"]


class Quiet:
    """A console that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def print(self, text: str, **_: Any) -> None:
        self.said.append(text)


def prepare_for(
    machine: Machine, monkeypatch, *options: str, has_weights=False, checks=False, **settings: Any
):
    if not checks:  # composing takes a third of a second for each
        monkeypatch.setattr(
            preparing,
            "compose_training",
            lambda options, own=(): compose_training(options) if not own else None,
        )
    monkeypatch.setattr(preparing, "find_machine", lambda *_: machine)
    monkeypatch.setattr(preparing, "find_weights", lambda _: has_weights)
    wanted = {"budget": "1d", "training": [*CELLS, *options], **settings}
    return prepare(check_settings(SearchSettings, wanted), Quiet())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "options", "task"),
    [
        pytest.param(CPU, [], ["head=multiclass"], marks=pytest.mark.nightly),
        pytest.param(GPU, ["head=binary"], [], marks=pytest.mark.nightly),
        (CPU, ["data.instances=true"], ["target=border_core", "monitor=val/seg"]),
    ],
    ids=["classes", "binary", "ids"],
)
def test_the_candidates_vary_what_matters_and_all_compose(machine, options, task, monkeypatch):
    record = prepare_for(machine, monkeypatch, *options, checks=True)
    assert record.options == ["plan=auto", *CELLS, *options, *task]
    small, large = ENCODERS[machine.has_gpu][0], "resnet34"
    if machine.has_gpu:  # the plan's own is the small one, and a large one without weights no use
        small, large = "resnet34", "resnet50"
    crop = "data.crop_size=[64,64]"
    for_objects = [["target=distance"], ["target=foreground", "instances=watershed"]]
    for_objects += [[f"encoder={large}", "target=distance"], ["target=foreground"]]
    wanted = [
        [],  # the plan's own, which comes first
        *([f"encoder={large}"], ["neck=fpn"], [crop], [f"encoder={small}"], ["loss=dice_focal"]),
        *(
            [f"encoder={large}", "neck=fpn"],
            ["neck=unetplusplus" if machine is GPU else "neck=linknet"],
        ),
        *([f"encoder={large}", crop], [f"encoder={small}", "neck=fpn"]),
        *(for_objects if "target=border_core" in task else []),
    ]
    assert record.candidates[0] == []
    assert sorted(record.candidates) == sorted(wanted)  # those that do not compose are left out
    assert record.monitor == ("val/seg" if "target=border_core" in task else "val/iou")


def test_what_is_set_stays(monkeypatch):
    options = ["encoder=resnet18", "neck.width=64", "loss=dice", "data.instances=true"]
    record = prepare_for(CPU, monkeypatch, *options, "target=foreground")
    varied = {text.partition("=")[0] for each in record.candidates for text in each}
    assert varied == {"data.crop_size", "instances"}
    record = prepare_for(CPU, monkeypatch, "data.instances=true", "monitor=val/iou")
    varied = {text.partition("=")[0] for each in record.candidates for text in each}
    assert "target" not in varied  # their IoU is of different classes
    record = prepare_for(GPU, monkeypatch, "head=binary", has_weights=True)
    assert ["encoder=convnext_tiny"] in record.candidates


def test_several_values_and_files_are_the_candidates(tmp_path, monkeypatch):
    axes = ["encoder=resnet18,resnet34", "neck=unet,fpn", "head=binary"]
    record = prepare_for(CPU, monkeypatch, *axes, checks=True)
    pairs = [
        [f"encoder={e}", f"neck={n}"] for e in ("resnet18", "resnet34") for n in ("unet", "fpn")
    ]
    assert record.candidates == pairs
    file = tmp_path / "candidates.yaml"
    file.write_text("- []\n- [neck=fpn, 'loss=dice']\n- encoder=resnet34 neck=fpn\n")
    record = prepare_for(CPU, monkeypatch, "head=binary", candidates=str(file), checks=True)
    assert record.candidates == [[], ["neck=fpn", "loss=dice"], ["encoder=resnet34", "neck=fpn"]]
    file.write_text("neck: fpn")
    with pytest.raises(SegkitError, match="must be a list of candidates"):
        read_candidates(file)


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        (["neck=unet,fnp"], {}, "Did you mean 'fpn'"),
        (["fold=1"], {}, "fold=1: the search sets it"),
        (["monitor=val/iou,val/dice"], {}, "compared by one score"),
        (["neck=fpn,fpn"], {}, "only one candidate"),
        (
            ["neck=unet,fpn"],
            {"budget": "1m"},
            "60 s are too short .* on 3 folds. For two candidates give",
        ),
        (["neck=unet,fpn"], {"folds": 500}, "folds=500 need as many groups"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_training(
    options, settings, said, monkeypatch
):
    with pytest.raises(SegkitError, match=said):
        prepare_for(CPU, monkeypatch, "head=binary", *options, checks=True, **settings)


def test_the_neighbour_of_a_crop_is_larger_where_images_and_memory_allow():
    def choose(crop, median, machine=CPU, **network):
        measures = Measures(median, median, 20.0, False)
        return choose_neighbour(crop, measures, replace(RESNET18, **network), machine)

    assert choose((256, 256), (1000, 1000)) == (384, 384)
    assert choose((256, 256), (256, 256)) == (160, 160)
    assert choose((256, 256), (300, 300)) == (300, 300)
    assert choose((256, 256), (1000, 1000), replace(CPU, memory=GB // 4)) == (160, 160)
    assert choose((64, 64), (64, 64)) is None
    assert choose((224, 224), (1000, 1000), largest=224) is None


def test_the_command_line_is_divided_and_put_together():
    typed = ["budget=4h", "data.root=my scans", "encoder=a,b", "--config-dir", "conf", "folds=4"]
    flags = ["--config-dir", "conf", "budget=4h", "folds=4"]
    training = 'training=["data.root=my scans","encoder=a,b"]'
    assert gather_options(["-m", *typed]) == [*flags, training]
    assert split_axes(["encoder=a,b", "x=[1,2]", "y", "z='my scans'"]) == (
        ["x=[1,2]", "y", 'z="my scans"'],
        [["encoder=a"], ["encoder=b"]],
    )
    assert put_over(["neck=unet", "+a=1"], ["neck=fpn", "a=2"]) == ["neck=fpn", "a=2"]
    assert (
        spell("train", ['data.root="my scans"'])
        == "python -m segkit.train 'data.root=\"my scans\"'"
    )
    assert (ROOT / "conf/search.yaml").is_file()
