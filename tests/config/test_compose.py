from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

import segkit
from segkit.cli.help import make_help_page
from segkit.config import schema, settings
from segkit.config.compose import compose, find_conf_dir
from segkit.config.declarations import (
    COMMANDS,
    FAMILIES,
    SECTIONS,
    WIRED,
    list_member_names,
    read_command_options,
    read_member_options,
    read_section_options,
    spell_command,
)
from segkit.config.validation import families, validate
from segkit.core.errors import SegkitError
from segkit.core.registry import read_defaults

GROUPS = sorted({path.parent.name for path in find_conf_dir().glob("*/*.yaml")})
CHOICES = sorted(f"{p.parent.name}={p.stem}" for p in find_conf_dir().glob("*/*.yaml"))
NEEDED = {
    "encoder=timm": ["encoder.name=convnext_tiny"],
    "loss=bce": ["head=binary"],
    "data=torchvision": ["data.dataset=VOCSegmentation"],
    "data=torchgeo": ["data.dataset=LandCoverAI100"],
    "data=huggingface": ["data.path=."],
    "loss=queries": ["head=queries"],
}


def test_conf_holds_the_commands_and_the_loader_besides_the_groups():
    files = {p.stem for p in find_conf_dir().glob("*.yaml")}
    assert files == {*COMMANDS, "loader"}
    assert len(CHOICES) > 60


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_composes_and_validates(group):
    for choice in [c for c in CHOICES if c.startswith(f"{group}=")]:
        config = compose([choice, *NEEDED.get(choice, [])])
        missing = OmegaConf.missing_keys(config)
        assert missing <= {"data.root"}, choice  # where the user's data are
        for key in missing:
            OmegaConf.update(config, key, ".")
        validate(config)


# --- one truth for every option ------------------------------------------------------------------


@pytest.mark.parametrize("family", families())
def test_options_read_from_the_source_are_those_of_the_classes(family):
    base = families()[family]
    names = list_member_names(family)
    built_in = {n for n, m in base.members().items() if m.__module__.startswith("segkit.")}
    assert set(names) == built_in
    for name in names:
        declared = read_member_options(family, name)
        real = read_defaults(base.members()[name])
        for key in WIRED.get(family, ()):
            real.pop(key, None)
        assert {k: o.default for k, o in declared.items() if not o.required} == real, name
        assert all(option.meaning for option in declared.values()), name


@pytest.mark.parametrize("name", [*COMMANDS, *SECTIONS])
def test_options_read_from_the_source_are_those_of_the_models(name):
    if name in SECTIONS:
        declared, model = read_section_options(name), getattr(schema, SECTIONS[name])
    else:
        declared, model = read_command_options(name), COMMANDS[name][1]
        model = getattr(schema, model, None) or getattr(settings, model)
    for key, option in declared.items():
        field = model.model_fields[key]
        assert field.is_required() == option.required, key
        assert field.description == (option.meaning or None), key
        assert option.meaning or key == "name", key
        if not option.required:
            assert str(field.default) == str(option.default), key


def test_no_preset_repeats_a_default():
    for path in find_conf_dir().glob("*/*.yaml"):
        given = yaml.safe_load(path.read_text()) or {}
        if "name" not in given or "defaults" in given:
            continue
        options = (
            read_member_options(path.parent.name, given["name"])
            if path.parent.name in families()
            else {}
        )
        if path.parent.name in SECTIONS:
            options |= read_section_options(path.parent.name)
        for key, value in given.items():
            if key in options and not options[key].required:
                assert key == "name" or value != options[key].default, f"{path}: {key}"


def test_options_that_no_yaml_mentions_are_overridden_shown_and_interpolated():
    config = compose(
        [
            "neck.upsample=deconv",
            "trainer.max_epochs=3",
            "data.crop_size=64",
            "loss.terms.dice.smooth=2",
            "encoder.freeze=1",
            "~data.cache",
            "+encoder.timm_args.drop_path_rate=0.1",
            "++optimizer.lr=0.1",
            "name=run-${trainer.max_epochs}-${neck.out_stride}",
        ]
    )
    found = validate(config)
    assert found.neck.options["upsample"] == "deconv"
    assert (found.trainer.max_epochs, found.data.crop_size) == (3, (64, 64))
    assert found.loss.options["terms"]["dice"]["smooth"] == 2
    assert found.encoder.options["freeze"] == 1
    assert found.encoder.options["timm_args"] == {"drop_path_rate": 0.1}
    assert (found.data.cache, found.optimizer.options["lr"]) == ("auto", 0.1)
    assert found.name == "run-3-1"
    assert found.target.options == {"weight_map": None}


def test_a_preset_of_ones_own_needs_a_name_only(tmp_path):
    for group, text in {
        "neck": "name: fpn\nwidth: 32\n",
        "data": "defaults: [/loader@_here_, _self_]\nname: folder\nroot: there\nbatch_size: 2\n",
        "trainer": "max_steps: 7\n",
        "experiment": "# @package _global_\nseed: 77\nneck: {width: 48}\n",
    }.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    chosen = [f"{group}=mine" for group in ("neck", "data", "trainer", "experiment")]
    config = compose([*chosen, "neck.smooth=false", "trainer.ema=0.9"], config_dir=tmp_path)
    assert (config.neck.width, config.neck.smooth, config.neck.merge_width) == (48, False, 128)
    assert (config.data.batch_size, config.data.crop_size, config.seed) == (2, 256, 77)
    assert (config.trainer.max_steps, config.trainer.ema) == (7, 0.9)


def test_members_in_a_named_file_need_no_preset(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        'class Mine(segkit.Neck, name="of_mine"): ...\n'
        'class Wide(segkit.Neck, name="wide"):\n'
        '    """A neck.\n\n    Args:\n        width: Its channels.\n    """\n'
        "    def __init__(self, channels, strides, width=7): ...\n"
        'class Files(segkit.DataSource, name="files"):\n'
        "    def __init__(self, mode, root): ...\n"
    )
    plugin = f"plugins=[{path}]"
    assert compose([plugin, "neck=wide"]).neck == {"name": "wide", "width": 7}
    assert compose([plugin, "neck=wide", "neck.width=9"]).neck.width == 9
    assert compose([plugin, "data=files", "data.root=here"]).data.root == "here"
    assert OmegaConf.missing_keys(compose([plugin, "data=files"])) == {"data.root"}
    with pytest.raises(SegkitError, match=r"there is no file .*mien\.py"):
        compose([f"plugins=[{tmp_path / 'mien.py'}]", "neck=wide"])
    page = make_help_page("train", [plugin, "neck=wide"])
    assert "of_mine" in page
    assert "# Its channels." in page
    (tmp_path / "neck").mkdir()
    (tmp_path / "neck/wide.yaml").write_text("name: wide\nwidth: 5\n")
    assert compose([plugin, "neck=wide"], config_dir=tmp_path).neck.width == 5


def test_the_quick_experiment_takes_other_data():
    config = compose(["experiment=quick", "data=folder", "data.root=."])
    assert (validate(config).data.name, config.data.crop_size) == ("folder", 64)


def test_the_reference_of_all_options_is_up_to_date():
    """Run `make docs` after changing an option or its description."""
    script = find_conf_dir().parent / "docs" / "write_options.py"
    code = {"__file__": str(script), "__name__": "write_options"}
    exec(compile(script.read_text(), str(script), "exec"), code)
    assert script.with_name("options.md").read_text() == code["page"]()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_member_has_a_preset(family):
    files = list((find_conf_dir() / family).glob("*.yaml"))
    shown = {OmegaConf.load(path).get("name") for path in files} | {path.stem for path in files}
    own = {n for n, m in families()[family].members().items() if m.__module__.startswith("segkit.")}
    assert own - shown <= {"boundary"}  # a term of sums


# --- what is wrong -------------------------------------------------------------------------------


def test_what_is_wrong_with_a_sweep_is_said_of_its_choices():
    with pytest.raises(SegkitError) as caught:
        compose(["neck=unet,fpnn", "experiment=dsb2018,camvid", "data.root=there", "data.rot=1,2"])
    text = str(caught.value)
    assert "there is no neck 'fpnn'. Did you mean 'fpn'?" in text
    assert "'neck=unet'" not in text
    assert "write +data.root=there, or run a sweep for each" in text
    assert "there is no key 'data.rot'" in text


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
    assert "there is no neck 'unt'. Did you mean 'unet'" in text
    assert "there is no key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'" in text
    assert "there is no key 'max_epochs'. Did you mean 'trainer.max_epochs'?" in text
    assert "use encoder=timm encoder.name=vit_tiny_patch16_224" in text
    with pytest.raises(SegkitError, match=r"'data\.root'\. It is a key of data=folder"):
        compose(["experiment=unet2015", "data.root=."])
    with pytest.raises(SegkitError, match=r"'neck\.upsampl'\. Did you mean 'neck\.upsample'"):
        compose(["neck.upsampl=nearest"])


def test_broken_and_missing_config_folders_are_named(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ntrainer: {max_epochs: 3\n")
    with pytest.raises(SegkitError, match=r"mine\.yaml"):
        compose(["experiment=mine"], config_dir=tmp_path)
    with pytest.raises(SegkitError, match=r"there is no folder of configs .*nowhere"):
        compose([], config_dir=tmp_path / "nowhere")


def test_composing_leaves_a_running_hydra_app_as_it_was():
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        assert "hydra" not in compose(["neck=fpn"])
        assert GlobalHydra.instance().hydra is before
    assert not GlobalHydra.instance().is_initialized()


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_page_has_examples_groups_meanings_and_values(command):
    page = make_help_page(command, ["neck=fpn"] if command == "train" else [])
    assert page.count(f"{spell_command(command)} ") >= 4
    for name, option in read_command_options(command).items():
        assert f"{name}:" in page
        assert f"# {option.meaning.split()[0]}" in page
    if command == "train":
        assert all(f"\n  {group}: " in page for group in GROUPS)
        assert "  # Channels of the pyramid" in page
        assert "\n  max_epochs: null\n" in page


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job", "--resolve"]])
def test_help_and_cfg_import_nothing_heavy(command, flags, tmp_path):
    given = {"train": [], "predict": ["checkpoint=x", "input=y"]}[command]
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'timm', 'lightning', 'cv2', 'pydantic'}\n"
        "def look(): print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "atexit.register(look)\n"
        f"sys.argv = ['segkit', *{flags + given!r}]\n"
        f"import runpy; runpy.run_module('segkit.{command}', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stderr
    assert "checkpoint" in done.stdout or "encoder" in done.stdout


# --- the package ---------------------------------------------------------------------------------


def test_public_names_are_there_and_importing_segkit_imports_no_torch():
    for name in segkit.__all__:
        assert getattr(segkit, name).__name__ == name
    with pytest.raises(AttributeError):
        segkit.nothing  # noqa: B018 - reading it raises
    code = (
        "import sys, segkit; segkit.SegkitError; assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
