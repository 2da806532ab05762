from __future__ import annotations

from functools import partial

import pytest
from omegaconf import OmegaConf

from segkit.config import settings
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError


def config(*overrides: str) -> dict:
    return OmegaConf.to_container(compose(list(overrides)), resolve=True)


def problems(given: dict) -> str:
    with pytest.raises(SegkitError) as error:
        validate(given)
    return str(error.value)


def test_every_problem_is_named_at_once_with_key_value_and_what_is_allowed():
    given = config("head=multiclass")
    given["trainer"] |= {"max_epochs": "ten", "precison": "16-mixed", "precision": "fp8"}
    given["encoder"]["name"] = "resnt34"
    given["neck"] |= {"upsample": "bilinar", "wdth": 3}
    given["optimizer"]["lr"] = -1
    given["loss"] = {"name": "bce"}
    given["data"]["batch_size"] = 0
    given["augment"]["transforms"] = [{"name": "HorizontalFlp"}, {"name": "Affine", "rotat": 3}]
    text = problems(given)
    for expected in (
        "trainer.max_epochs='ten': Input should be a valid integer",
        "trainer.precison: there is no such key. Did you mean 'precision'?",
        "trainer.precision='fp8': Input should be 'auto', '32-true'",
        "encoder 'resnt34' is not known. Did you mean 'resnet34'",
        "neck: option 'upsample' is 'bilinar': Input should be 'nearest', 'bilinear' or 'deconv'",
        "neck: option 'wdth' is not known. Did you mean 'width'?",
        "optimizer: option 'lr' is -1",
        "data.batch_size=0: Input should be greater than or equal to 1",
        "albumentations has no transform 'HorizontalFlp'. Did you mean 'HorizontalFlip'",
        "Affine has no option 'rotat'. Did you mean 'rotate'",
    ):
        assert expected in text
    assert "loss 'bce'" in text  # which does not fit the head
    assert "multiclass" in text


@pytest.mark.parametrize(
    ("schema", "command", "given", "key"),
    [
        (settings.PredictSettings, "predict", "checkpoint=a.ckpt input=a.png output=", "output"),
        (settings.PredictSettings, "predict", "checkpoint= input=a.png", "checkpoint"),
        (settings.ExportSettings, "export", "checkpoint=a.ckpt output=", "output"),
        (settings.HubSettings, "hub", "push= repo=me/cells", "push"),
        (settings.DataCheckSettings, "data_check", "root=", "root"),
        (settings.DataConvertSettings, "data_convert", "root=[a,''] output=b", "root"),
        (None, "train", "resume=", "resume"),
        (None, "train", "data=folder data.root=", "root"),
        (None, "train", "data=folder data.pairs=", "pairs"),
        (None, "train", "data=tracking_challenge data.root=", "root"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(schema, command, given, key):
    """As where a shell variable is not set."""
    composed = compose(given.split(), command)
    check = validate if schema is None else partial(settings.parse_settings, schema)
    with pytest.raises(SegkitError, match=rf"{key}.*: a path is empty, as where a shell variable"):
        check(composed)


def test_a_missing_value_is_named():
    with pytest.raises(SegkitError, match=r"encoder\.name is missing: give encoder\.name=VALUE"):
        validate(compose(["encoder=timm"]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trainer.max_time": "30 minutes"}, "DD:HH:MM:SS"),
        ({"trainer.max_epochs": -1}, "trainer has no end"),
        (
            {"trainer.compile": True, "trainer.recompute": True},
            "trainer.recompute=true with trainer.compile=true",
        ),
        ({"monitor": "val/miou"}, "'val/iou'"),
        ({"auxiliary": [0.5, -1]}, "auxiliary.1=-1"),
        ({"loss.ignore_index": 0}, "ignore_index cannot be chosen"),
        ({"loss.terms.dice.weight": 0}, "weight"),
        ({"loss.terms.tversky2": {}}, "tversky2"),
        ({"seed": -1}, "seed=-1"),
        ({"neck.channels": [1, 2]}, "neck.channels cannot be chosen"),
        ({"encoder.in_channels": 4}, "encoder.in_channels cannot be chosen"),
        ({"encoder": None}, "encoder"),
        ({"trainer.max_steps": 0}, "trainer.max_steps"),
        ({"trainer.max_time": 5}, "DD:HH:MM:SS"),
        ({"encoder.pretrained": "ture"}, "encoder.pretrained='ture': there is no such file"),
    ],
)
def test_wrong_values(change, expected):
    given = compose()
    OmegaConf.set_struct(given, False)
    for key, value in change.items():
        OmegaConf.update(given, key, value)
    assert expected in problems(given)


def test_an_endless_training_with_a_limit_in_time_is_fine_with_a_constant_rate():
    settings = validate(
        compose(["trainer.max_epochs=-1", "trainer.max_time=00:00:01:30", "scheduler=constant"])
    )
    assert settings.trainer.seconds == 90


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["auxiliary=[0.5]", "neck=fcn"], "use neck=unet or neck=fpn"),
        (["encoder=unet", "encoder.padding=valid", "neck=fpn"], "use neck=unet"),
        (
            ["target=border_core", "head=binary"],
            "with head=binary: use head=multiclass",
        ),
        (["target=distance", "head=multiclass"], "use head=multilabel"),
        (["target=border_core", "head.num_classes=5"], "which has 3 classes: leave it null"),
        (
            ["target.weight_map={w0: 10, sigma: 5, balance: true}", "loss=dice"],
            "takes no weights of pixels: use loss=cross_entropy",
        ),
        (["target.weight_map={w0: -1}"], "w0: Input should be greater"),
        (["target.weight_map={sigm: 5}"], "sigm: Unexpected keyword"),
        (["instances=border_core"], "target=labels and head=binary: use instances=components or"),
        (["instances=components", "head=multilabel"], "head=multilabel: use another target"),
        (["trainer.max_time=00:00:00:00"], "give some time"),
        (["monitor=val/seg"], "monitor=val/seg needs separate objects: give instances="),
        (["min_size=20"], "min_size=20 drops small objects, but objects are not told apart: give"),
        (["target=distance", "metrics=[membranes]"], "metrics=[membranes] scores cells"),
        (["metrics=[boundries]"], "'boundries'"),
        (["target.name=border_cor"], "Did you mean 'border_core'"),
    ],
)
def test_parts_that_do_not_fit_together(overrides, expected):
    assert expected in problems(config(*overrides))


@pytest.mark.parametrize("target", ["foreground", "border_core", "distance"])
def test_a_target_brings_the_head_and_the_decoder_that_it_needs(target):
    settings = validate(compose([f"target={target}", "monitor=val/seg"]))
    assert settings.instances in ("components", target)
