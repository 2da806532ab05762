"""The commands of docs/cluster.md have keys that exist, and its scripts ask for what they use."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from segkit.config.compose import compose

PAGE = (Path(__file__).parent.parent / "docs/cluster.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"-m (segkit\.\w+) (.*)", PAGE)


def test_the_page_has_commands_of_all_three():
    assert {name for name, _ in COMMANDS} == {"segkit.train", "segkit.evaluate", "segkit.predict"}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_commands_compose(name, words):
    overrides = [
        word for word in shlex.split(words) if "=" in word and not word.startswith("hydra")
    ]
    first_choices = [re.sub(r",[^\]]*$", "", word) for word in overrides]
    config = compose(first_choices, name.removeprefix("segkit."))
    assert config.get("resume") or len(overrides) > 1


def test_keys_of_the_launcher_exist():
    plugin = pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher.config", reason="the extra slurm is not installed"
    )
    keys = set(re.findall(r"hydra\.launcher\.(\w+)", PAGE))
    assert "partition" in keys
    assert keys <= plugin.SlurmQueueConf.__dataclass_fields__.keys()
