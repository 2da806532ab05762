from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segkit.config.compose import compose, conf_dir
from segkit.config.openings import with_stand_ins
from segkit.config.validation import validate
from segkit.core.errors import SegkitError

GROUPS = {path.name for path in conf_dir().iterdir() if path.is_dir()}
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for group in GROUPS
    for path in conf_dir().glob(f"{group}/*.yaml")
)
GIVEN = {
    "encoder=timm": ["encoder.name=convnext_tiny"],
    "data=folder": ["data.root=."],
    "loss=bce": ["head=binary"],
}


def test_no_config_is_left_out_of_the_tests():
    files = {p.relative_to(conf_dir()).as_posix() for p in conf_dir().rglob("*.yaml")}
    in_groups = {f for f in files if "/" in f}
    assert len(in_groups) == len(CHOICES)
    assert files - in_groups == {
        "train.yaml",
        "evaluate.yaml",
        "predict.yaml",
        "export.yaml",
        "serve.yaml",
        "benchmark.yaml",
        "loader.yaml",
    }


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_validates(choice):
    config = compose([choice, *GIVEN.get(choice, [])])
    missing = OmegaConf.missing_keys(config)
    assert missing <= {"data.root"}  # where the user's data are
    for key in missing:
        OmegaConf.update(config, key, ".")
    settings = validate(with_stand_ins(config))
    assert settings.encoder.name


@pytest.mark.parametrize("family", ["encoder", "neck", "head", "loss", "optimizer", "scheduler"])
def test_presets_show_every_option_so_that_each_can_be_overridden(family):
    """A key that is not in the preset could only be given with a plus sign."""
    from segkit.config.validation import FILLED_IN, families
    from segkit.core.registry import default_options

    for path in conf_dir().glob(f"{family}/*.yaml"):
        if path.stem == "auto" and family != "optimizer":
            continue  # no preset: the planner takes one
        choice = f"{family}={path.stem}"
        part = OmegaConf.to_container(compose([choice, *GIVEN.get(choice, [])]))[family]
        cls = families()[family]
        member, options = cls.resolve(part.pop("name"), {})
        wanted = default_options(member).keys() - FILLED_IN.get(family, set()) - set(options)
        assert set(part) >= wanted, choice


def test_a_notebook_composes_what_the_command_line_would():
    options = ["encoder=resnet34", "neck=fpn", "trainer.max_epochs=3"]
    config = compose([*options, "encoder.timm_args={drop_path_rate: 0.1}"])
    assert config.encoder.timm_args.drop_path_rate == 0.1
    assert (config.encoder.name, config.neck.name, config.trainer.max_epochs) == (
        "resnet34",
        "fpn",
        3,
    )
    assert "hydra" not in config


def test_compose_names_every_wrong_override_at_once():
    wrong = [
        "encoder=resnt34",
        "neck=unt",
        "trainer.max_epoch=3",
        "max_epochs=4",
        "encoder=vit_tiny_patch16_224",
    ]
    with pytest.raises(SegkitError) as error:
        compose(wrong)
    text = str(error.value)
    assert "there is no encoder 'resnt34'. Did you mean 'resnet34'" in text
    assert "there is no neck 'unt'. Did you mean 'unet'?" in text
    assert "there is no key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'" in text
    with pytest.raises(SegkitError, match=r"'data\.root'\. It is a key of data=folder"):
        compose(["experiment=unet2015", "data.root=."])
    assert "there is no key 'max_epochs'. Did you mean 'trainer.max_epochs'?" in text
    assert "use encoder=timm encoder.name=vit_tiny_patch16_224" in text


def test_a_broken_experiment_file_is_named(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\ntrainer: {max_epochs: 3\n")
    with pytest.raises(SegkitError, match=r"mine\.yaml"):
        compose(["experiment=mine"], config_dir=tmp_path)


def test_own_groups_come_from_a_config_dir(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    assert compose(["experiment=mine"], config_dir=tmp_path).seed == 77


def test_composing_leaves_a_running_hydra_app_as_it_was():
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose(["neck=fpn"])
        assert GlobalHydra.instance().hydra is before
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "predict", "export", "serve", "benchmark"]
)
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job", "--resolve"]])
def test_help_and_cfg_import_no_torch(command, flags, tmp_path):
    given = {"train": [], "benchmark": [], "predict": ["checkpoint=x", "input=y"]}
    given = given.get(command, ["checkpoint=x"])
    code = (
        "import sys, atexit\n"
        "def look():\n"
        "    heavy = {'torch', 'timm', 'lightning', 'cv2', 'pydantic'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), file=sys.stderr)\n"
        "atexit.register(look)\n"
        f"sys.argv = ['segkit', *{flags + given!r}]\n"
        f"import runpy; runpy.run_module('segkit.{command}', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stderr
    assert "checkpoint" in done.stdout or "encoder" in done.stdout


def test_help_lists_groups_keys_and_five_commands():
    done = subprocess.run(
        [sys.executable, "-m", "segkit.train", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("python -m segkit.train ") >= 5
    for group in GROUPS:
        assert f"\n  {group}: " in done.stdout
    assert "max_epochs:" in done.stdout


def test_importing_segkit_imports_no_torch():
    code = (
        "import sys, segkit; segkit.SegkitError; assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there():
    import segkit

    assert {"Encoder", "Segmenter", "compose", "load"} < set(segkit.__all__) <= set(dir(segkit))
    for name in segkit.__all__:
        assert getattr(segkit, name).__name__ == name
    with pytest.raises(AttributeError):
        segkit.nothing  # noqa: B018


def test_the_conf_folder_lies_beside_the_package_in_a_checkout():
    assert conf_dir() == Path(__file__).parents[2] / "conf"
