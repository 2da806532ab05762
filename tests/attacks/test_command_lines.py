"""Command lines that no user would type on purpose: each is taken, or ends in a message."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest
from conftest import QUICK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segkit
from segkit.config.overrides import _list_keys
from segkit.config.validation import validate
from segkit.core.errors import SegkitError

GROUPS = ["encoder", "neck", "head", "loss", "data", "augment", "optimizer", "scheduler"]
GROUPS += ["trainer", "logger", "target", "plan", "experiment"]
FOREIGN = [
    "hydra.verbose",
    "hydra.mode",
    "hydra/launcher",
    "hydra.run.dir",
    "_target_",
    "a/b@c",
    "",
]
WORDS = ["nan", "-inf", "1e308", "1e400", "true", "null", "''", "???", "...", "auto", "none", "[]"]
WORDS += ["{}", "[null]", "[1,[2,[3]]]", "{a:{b:[1]}}", "1,2", "a,b", "range(1,3)", "glob(*)"]
WORDS += ["${nope}", "${encoder}", "${oc.env:NOPE}", "${oc.decode:x}", "${now:%Y}", "[", "{", "'"]
WORDS += ["../../x", "/dev/null", "99999999:00:00:00", "a" * 5000, "*", "=", "@_global_", "\u202e"]
SHAPES = ["{k}={v}"] * 5 + ["+{k}={v}", "++{k}={v}", "~{k}", "~{k}={v}", "{k}.x={v}", "{k}", "{k}="]
SHAPES += ["{k}@a={v}", "{k}:{v}", "--{k}={v}", "{k}[0]={v}", ".{k}={v}", "+{k}.x.y={v}"]
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@cache
def list_keys() -> list[str]:
    """The keys of a few configs that have most options between them."""
    found = []
    for options in ([], ["data=folder", "data.root=x"], ["loss=focal_tversky", "optimizer=sgd"]):
        found += _list_keys(segkit.compose(["encoder=unet", *options]))
    return sorted(set(found))


def draw_overrides() -> st.SearchStrategy[list[str]]:
    """Command lines of one to three overrides."""
    keys = st.one_of(
        st.deferred(lambda: st.sampled_from(list_keys())),
        st.sampled_from(GROUPS + FOREIGN),
        st.text(max_size=6),
    )
    numbers = st.one_of(st.integers(), st.floats()).map(str)
    values = st.one_of(st.sampled_from(WORDS), numbers, st.text(max_size=8))
    override = st.builds(
        lambda shape, key, value: shape.format(k=key, v=value),
        st.sampled_from(SHAPES),
        keys,
        values,
    )
    return st.lists(override, min_size=1, max_size=3)


def find_message(overrides: list[str]) -> str:
    """What the user is told; any other exception is the fault that is looked for."""
    try:
        validate(segkit.compose(overrides))
    except SegkitError as error:
        return str(error)
    return "nothing"


@pytest.mark.slow
@settings(max_examples=25, **RELAXED)
@given(draw_overrides())
def test_some_end_in_messages(overrides):
    assert 0 < len(find_message(overrides)) < 20_000


@pytest.mark.nightly
@settings(max_examples=2000, **RELAXED)
@given(draw_overrides())
def test_many_end_in_messages(overrides):
    assert 0 < len(find_message(overrides)) < 20_000


@pytest.mark.parametrize(
    "override",
    [
        *("logger=null", "plan=false", "loss=null", "loss=true", "encoder=5", "trainer=[nan]"),
        *(
            "=5",
            "+=../../x",
            "plan=[null]",
            "trainer=[1,[2,[3]]]",
            "~logger=-inf",
            "~experiment=x",
            "plugins=1",
        ),
        *("trainer.devices=abc", "trainer.devices=0", "trainer.devices=[]", "trainer.devices=1.5"),
        *("data.num_workers=${nope}", "name=${oc.env:NOPE}", "trainer.max_time=\u00b2:0:0:1"),
        "trainer.max_time=99999999999999:00:00:00",
        "trainer.devices='" + "0" * 60 + "x,'",
    ],
)
def test_those_that_ended_in_a_trace_are_refused(override):
    with pytest.raises(SegkitError):
        validate(segkit.compose([override]))


@pytest.mark.nightly
@pytest.mark.parametrize(
    "override",
    [
        *("hydra.verbose={a:1}", "trainer.accelerator=tpu", "trainer.accelerator=x"),
        *("trainer.devices=100", "hydra/launcher=joblib", "hydra.mode=x", "resume=''", "resume=."),
        *("hydra.run.dir=/dev/null/x", "encoder.width=100000000", "data.crop_size=1000000"),
        *("trainer.precision=x", "trainer.strategy=x", "plugins=[nope.py]"),
    ],
)
def test_real_commands_end_with_status_2_and_a_message(tmp_path, override):
    command = [sys.executable, "-m", "segkit.train", *QUICK, "encoder=unet", "encoder.depth=2"]
    done = subprocess.run(
        [*command, override],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
