"""The help page of a command: its purpose, example commands, the groups, the keys.

Hydra's own page takes twice as long because it composes once for each group.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from segkit.config.compose import compose, find_conf_dir
from segkit.config.declarations import (
    FAMILIES,
    SECTIONS,
    Options,
    list_plugin_members,
    read_command_options,
    read_member_options,
    read_section_options,
)
from segkit.core import plugins

PURPOSE = {
    "train": """Train a segmentation model from an encoder, a neck and a head.

usage: python -m segkit.train [GROUP=CHOICE ...] [KEY=VALUE ...]

Worth trying:
  python -m segkit.train                                      the built-in data set
  python -m segkit.train encoder=resnet34 neck=fpn head=multiclass
  python -m segkit.train data=folder data.root=DIR encoder=timm encoder.name=convnext_tiny
  python -m segkit.train data=folder data.root=DIR plan=auto  choose values for data and machine
  python -m segkit.train -m encoder=resnet18,resnet34 neck=unet,fpn    a sweep with a table
  python -m segkit.train --cfg job --resolve                  show the config, run nothing
  python -m segkit.train resume=runs/NAME/TIME                resume a run""",
    "search": """Find a good configuration for a data set within a time, by successive halving.

usage: python -m segkit.search budget=TIME [GROUP=CHOICE ...] [KEY=VALUE ...]

It takes the options of a training too (python -m segkit.train --help); what is set stays.

Worth trying:
  python -m segkit.search data=folder data.root=DIR budget=4h          again: goes on
  python -m segkit.search data=folder data.root=DIR budget=1d neck=unet folds=5
  python -m segkit.search data=folder data.root=DIR budget=4h data.instances=true   objects
  python -m segkit.search data=folder data.root=DIR budget=2h encoder=resnet18,resnet34
  python -m segkit.search data=folder data.root=DIR budget=2h candidates=FILE.yaml
  python -m segkit.search resume=runs/NAME/search_TIME                 go on with a search""",
    "evaluate": """Score a checkpoint on a data set.

usage: python -m segkit.evaluate checkpoint=CKPT [GROUP=CHOICE ...] [KEY=VALUE ...]

Worth trying:
  python -m segkit.evaluate checkpoint=CKPT                   on its validation images
  python -m segkit.evaluate checkpoint=CKPT split=test
  python -m segkit.evaluate checkpoint=CKPT data=folder data.root=DIR split=all
  python -m segkit.evaluate checkpoint=CKPT tta=d4            the mean over eight views
  python -m segkit.evaluate checkpoint=[A.ckpt,B.ckpt]        an ensemble
  python -m segkit.evaluate checkpoint=CKPT output=DIR        choose the folder of the report""",
    "report": """Compare runs on one page: scores, curves, the same images side by side.

usage: python -m segkit.report RUN RUN [...] [KEY=VALUE ...]

Worth trying:
  python -m segkit.report runs/cells/TIME runs/cells/TIME2    two runs
  python -m segkit.report runs/cells/sweep_TIME               all jobs of a sweep
  python -m segkit.report RUN/evaluation-test RUN2/evaluation-test    evaluations
  python -m segkit.report RUN RUN2 output=compared.html       choose the name of the page""",
    "predict": """Write the masks of images.

usage: python -m segkit.predict checkpoint=CKPT input=DIR_OR_FILE_OR_GLOB [KEY=VALUE ...]

Worth trying:
  python -m segkit.predict checkpoint=CKPT input=DIR output=masks     again: resumes
  python -m segkit.predict checkpoint=CKPT input='scans/**/*.tif'     or a list: input=images.txt
  python -m segkit.predict checkpoint=[A.ckpt,B.ckpt] input=DIR tta=d4    an ensemble, eight views
  python -m segkit.predict checkpoint=CKPT input=DIR instances=components min_size=20
  python -m segkit.predict checkpoint=CKPT input=DIR polygons=geojson overlays=false
  torchrun --nproc-per-node=4 -m segkit.predict checkpoint=CKPT input=DIR    four GPUs""",
    "export": """Write a checkpoint as a file of ONNX, OpenVINO or torch.export.

usage: python -m segkit.export checkpoint=CKPT [KEY=VALUE ...]

Worth trying:
  python -m segkit.export checkpoint=CKPT                     model.onnx in the run folder
  python -m segkit.export checkpoint=CKPT output=model.xml    for OpenVINO, with model.bin
  python -m segkit.export checkpoint=CKPT output=model.pt2    a program of torch.export
  python -m segkit.export checkpoint=CKPT quantize=int8       8 bits, where that is faster
  python -m segkit.export checkpoint=ensemble.yaml            several networks as one file
  python -m segkit.export checkpoint=CKPT input='scans/*.tif' the images to check on
  python -m segkit.predict checkpoint=model.onnx input=DIR    use the file like a checkpoint""",
    "serve": """Serve a page to try a model on, and an HTTP endpoint beside it.

usage: python -m segkit.serve checkpoint=CKPT [KEY=VALUE ...]

Worth trying:
  python -m segkit.serve checkpoint=CKPT                      open http://127.0.0.1:8000
  python -m segkit.serve checkpoint=CKPT port=0               on any free port
  python -m segkit.serve checkpoint=CKPT instances=components separate objects
  curl -F file=@image.tif '127.0.0.1:8000/predict?format=png' -o mask.png
  curl -F file=@image.tif 127.0.0.1:8000/predict              classes and objects as JSON
  http://127.0.0.1:8000/docs                                  what the endpoint accepts""",
    "hub": """Upload a trained model to the Hugging Face hub, with a page that describes it.

usage: python -m segkit.hub push=CKPT repo=OWNER/NAME [KEY=VALUE ...]

hf://OWNER/NAME then stands for it wherever a command or segkit.load takes a checkpoint.

Worth trying:
  hf auth login                                               once, or set HF_TOKEN
  python -m segkit.hub push=CKPT folder=DIR                   look at the files, upload nothing
  python -m segkit.hub push=CKPT repo=OWNER/NAME              a private repository
  python -m segkit.hub push=CKPT repo=OWNER/NAME private=false license=apache-2.0
  python -m segkit.predict checkpoint=hf://OWNER/NAME input=DIR""",
    "data_check": """Check a data set before a training: what it holds, and whether it can be used.

usage: python -m segkit.data check root=DIR [head=HEAD] [GROUP=CHOICE ...] [KEY=VALUE ...]

The options of data are those of a training; head is binary, multiclass, multilabel or auto.

Worth trying:
  python -m segkit.data check root=DIR                        tables, and check.png to look at
  python -m segkit.data check root=DIR head=multiclass        as a training with that head
  python -m segkit.data check data.pairs=FILE.csv             a table of images and masks
  python -m segkit.data check root=DIR format=json sheet=false    for a program
  python -m segkit.data convert root=DIR output=DIR2          rewrite it as plain PNGs""",
    "data_convert": """Write a data set as plain images and masks, which every program reads.

usage: python -m segkit.data convert root=DIR output=DIR2 [GROUP=CHOICE ...] [KEY=VALUE ...]

The options of data are those of a training; head is binary, multiclass, multilabel or auto.

Worth trying:
  python -m segkit.data convert root=DIR output=DIR2          again: resumes
  python -m segkit.data convert root=DIR output=DIR2 layout=csv    one folder and pairs.csv
  python -m segkit.data convert root=DIR output=DIR2 head=multilabel    overlapping classes
  python -m segkit.data convert data=camvid root=DIR output=DIR2    any data set of conf/data
  python -m segkit.data check root=DIR2                       look at the result""",
    "benchmark": """Measure encoders x necks on this machine: parameters, operations, time, memory.

usage: python -m segkit.benchmark [KEY=VALUE ...]

Worth trying:
  python -m segkit.benchmark                                  a few encoders, a few minutes
  python -m segkit.benchmark encoders=[resnet34,convnext_tiny] necks=[unet,fpn,fcn]
  python -m segkit.benchmark upsample=[nearest,bilinear,deconv]   ways of upsampling
  python -m segkit.benchmark sizes=[256,512] batch=8 channels=1 classes=5
  python -m segkit.benchmark 'encoders=[{name:unet,width:32}]'    options of a part
  python -m segkit.benchmark device=cuda precision=bfloat16   on a GPU, its own memory""",
}

TAKEN = {
    "evaluate": ["data"],
    "report": [],
    "predict": [],
    "export": [],
    "serve": [],
    "hub": [],
    "search": [],
    "benchmark": [],
    "data_check": ["data", "head"],
    "data_convert": ["data", "head"],
}
"""The groups that a command takes if not all."""


def make_help_page(command: str, overrides: list[str], config_dir: Path | str | None = None) -> str:
    """The page, with the values that the overrides give.

    Raises:
        SegkitError: The overrides cannot be composed.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(compose(overrides, command, config_dir))
    groups = [
        f"  {group}: {', '.join(choices)}"
        for group, choices in find_groups(config_dir).items()
        if command == "train" or group in TAKEN[command]
    ]
    parts = [PURPOSE[command]]
    if groups:
        parts.append("\n".join(["Groups and their choices:", *groups]))
    parts.append("Keys, their meaning and their values:")
    parts.append("\n".join(_describe(values, read_config_options(command, values))))
    parts.append(
        "Flags: --cfg job, -m, --config-dir DIR; --hydra-help lists the others. docs/options.md"
        " lists the options of all choices."
    )
    return "\n\n".join(parts)


def read_config_options(command: str, values: dict[str, Any]) -> dict[str, Options]:
    """The declared options of the sections of a config, by their path; "" for the top level."""
    found = {"": read_command_options(command)}
    for key, part in values.items():
        if not isinstance(part, dict):
            continue
        if key in SECTIONS:
            found[key] = read_section_options(key)
        if key in FAMILIES:
            name = part.get("name", "")
            default = read_member_options("encoder", "timm") if key == "encoder" else {}
            found[key] = {**found.get(key, {}), **(read_member_options(key, name) or default)}
        if key == "loss":
            for term, options in (part.get("terms") or {}).items():
                name = options.get("name", term)
                found[f"loss.terms.{term}"] = read_member_options("loss", name)
    return found


def _describe(values: dict[str, Any], options: dict[str, Options], path: str = "") -> list[str]:
    """The lines of a YAML file with a comment above each key that has a meaning."""
    import yaml

    level = path.count(".") + 1 if path else 0
    lines = []
    for key, value in values.items():
        option = options.get(path, {}).get(key)
        if option is not None and option.meaning:
            lines += textwrap.wrap(
                option.meaning, 99 - 2 * level, initial_indent="# ", subsequent_indent="# "
            )
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value and any(o.startswith(below) for o in options):
            lines.append(f"{key}:")
            lines += [f"  {line}" for line in _describe(value, options, below)]
        else:
            style = None if isinstance(value, list | dict) else False
            dumped = yaml.safe_dump(
                {key: value}, default_flow_style=style, sort_keys=False, width=1000
            )
            lines += dumped.rstrip().splitlines()
    return lines


def find_groups(config_dir: Path | str | None = None) -> dict[str, list[str]]:
    """The groups of configs and their choices, including those of plugins and of the user."""
    places = [find_conf_dir(), *plugins.find_conf_dirs()]
    if config_dir is not None:
        places.append(Path(config_dir))
    found: dict[str, set[str]] = {}
    for place in places:
        for file in place.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    for family, name in list_plugin_members():
        found[family].add(name)
    return {group: sorted(choices) for group, choices in sorted(found.items())}
