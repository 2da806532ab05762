"""Folds: groups stay together, classes are balanced, and a run keeps its own."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, train_quick

import segkit
from segkit.checkpoint.values import LabelCoding
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.ensembles import write_ensemble
from segkit.core.errors import SegkitError
from segkit.data.checks.classes import Classes
from segkit.data.checks.facts import Facts
from segkit.data.checks.folds import Fold, describe_series, divide, find_groups, regroup
from segkit.data.checks.summary import check
from segkit.data.sources.base import Sample
from segkit.data.sources.cells import CellsSource
from segkit.evaluate.command import evaluate, name_masks
from segkit.images.reading import read_mask
from segkit.report.table import read_csv

THREE = Classes("multiclass", 3, ("background", "a", "b"), 0, LabelCoding({}), False)


def make_facts(shares: list[tuple[int, ...]], names=None) -> list[Facts]:
    names = names or [f"{i}.png" for i in range(len(shares))]
    return [
        Facts(Sample(name), "train", layers=[dict(enumerate(share))])
        for name, share in zip(names, shares, strict=True)
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_folds_are_of_equal_size_and_have_equal_shares_of_each_class(count):
    rng = np.random.default_rng(0)
    shares = [(1000, *map(int, rng.integers(0, 200, 2))) for _ in range(60)]
    shares += [(1000, 0, 3000), (1000, 5000, 0)] * count  # rare images full of a class
    chosen = np.array(divide(make_facts(shares), THREE, Fold(0, count)))
    sizes = np.bincount(chosen)
    assert len(sizes) == count
    assert sizes.max() - sizes.min() <= 2
    pixels = np.array([np.array(shares)[chosen == i].sum(0) for i in range(count)])
    assert (pixels.std(0) / pixels.mean(0)).max() < 0.05


def test_groups_are_never_divided():
    rng = np.random.default_rng(0)
    names = [f"patient{i % 13}/slice{i}.png" for i in range(80)]
    shares = [tuple(map(int, rng.integers(1, 100, 3))) for _ in names]
    fold = Fold(0, 4, r"patient(\d+)")
    chosen = divide(make_facts(shares, names), THREE, fold)
    folds_of = {}
    for name, number in zip(names, chosen, strict=True):
        folds_of.setdefault(name.partition("/")[0], set()).add(number)
    assert all(len(found) == 1 for found in folds_of.values())
    assert set(chosen) == {0, 1, 2, 3}
    assert max(Counter(chosen).values()) < 35


def test_they_depend_on_nothing_but_the_data():
    shares = [(100, i % 7, i % 3) for i in range(40)]
    facts = make_facts(shares)
    first = dict(zip((f.sample.name for f in facts), divide(facts, THREE, Fold(0, 5)), strict=True))
    order = np.random.default_rng(1).permutation(40)
    moved = [facts[i] for i in order]
    again = dict(zip((f.sample.name for f in moved), divide(moved, THREE, Fold(3, 5)), strict=True))
    assert again == first


def test_groups_of_a_csv_file(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("name,patient\na/1.png,p1\na/2,p1\nb.png,p2\n")
    samples = [Sample("a/1.png"), Sample("a/2.png"), Sample("b.png")]
    assert find_groups(samples, Fold(0, 2, str(table))) == ["p1", "p1", "p2"]
    with pytest.raises(SegkitError, match=r"no group to 1 of 4 images: c\.png"):
        find_groups([*samples, Sample("c.png")], Fold(0, 2, str(table)))
    with pytest.raises(SegkitError, match="cannot be read as CSV"):
        find_groups(samples, Fold(0, 2, str(tmp_path / "gone.csv")))
    with pytest.raises(SegkitError, match="is no regular expression"):
        find_groups(samples, Fold(0, 2, "p(1"))
    table.write_text("a\nb\n")
    with pytest.raises(SegkitError, match="two columns"):
        find_groups(samples, Fold(0, 2, str(table)))


def test_pages_of_a_file_stay_together_and_few_files_are_cut():
    pages = [Sample(f"{f}:{p}", Path(f), page=p) for f in "abcd" for p in range(10)]
    assert find_groups(pages, Fold(0, 4)) == [f for f in "abcd" for _ in range(10)]
    found = find_groups(pages[:20], Fold(0, 5))
    assert found[:10] == [f"a, part {p // 2}" for p in range(10)]
    assert len(set(found)) == 10
    with pytest.raises(SegkitError, match="folds=5 need as many groups of images, and there are 2"):
        divide(make_facts([(9, 1, 1)] * 4, ["aa", "ab", "ba", "bb"]), THREE, Fold(0, 5, "^."))


def test_each_image_is_validated_once_and_its_intensities_are_not_learned():
    source = CellsSource("binary", train=7, val=3, test=2, size=(64, 64))
    seen = Counter()
    for number in range(5):
        summary = check(source, "binary", fold=Fold(number, 5))
        assert len(summary.splits["val"]) == 2
        assert {s.name for s in summary.splits["test"]} == {"test-0000", "test-0001"}
        names = [{s.name for s in summary.splits[split]} for split in ("train", "val")]
        assert not names[0] & names[1]
        assert len(names[0]) == 8
        seen.update(names[1])
        alone = check(source, "binary", val_names=sorted(names[1]))
        assert alone.splits == summary.splits
        assert alone.normalization.mean == pytest.approx(summary.normalization.mean, abs=0.01)
        assert alone.train_share == summary.train_share
    assert set(seen.values()) == {1}
    assert len(seen) == 10
    with pytest.raises(SegkitError, match="1 of the 1 validation images of this fold are not"):
        regroup(source.splits(), ["other"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fold=5"], "fold=5 of folds=5: give one from 0 to 4"),
        (["folds=3"], "folds without fold"),
        (["data.groups=x"], "data.groups without fold"),
        (["fold=-1"], "greater than or equal to 0"),
        (["fold=0", "folds=1"], "greater than or equal to 2"),
    ],
)
def test_keys_that_make_no_sense(options, message):
    with pytest.raises(SegkitError, match=message):
        validate(compose(options))


@pytest.mark.slow
def test_a_run_keeps_its_fold(tmp_path):
    """Its evaluation, and its resumed training, see the same images."""
    run = train_quick(tmp_path / "run", "fold=1", "folds=3")
    images = {row["image"] for row in read_csv(run.folder / "images.csv")}
    assert len(images) == 4
    stored = torch.load(run.checkpoint, weights_only=True)["segkit"]["config"]
    assert set(stored["data"]["val_names"]) == images
    evaluate(segkit.compose([f"checkpoint='{run.checkpoint}'"], command="evaluate"))
    again = read_csv(run.folder / "evaluation-val/images.csv")
    assert {row["image"] for row in again} == images
    train_quick(run.folder, f"resume='{run.folder}'", "fold=1", "folds=3", "trainer.max_epochs=2")
    assert {row["image"] for row in read_csv(run.folder / "images.csv")} == images


@pytest.mark.slow
def test_each_image_is_scored_by_the_network_that_has_not_seen_it(tmp_path):
    runs = [train_quick(tmp_path / str(i), f"fold={i}", "folds=2", "data.val=2") for i in (0, 1)]
    write_ensemble(tmp_path / "ensemble.yaml", [run.checkpoint for run in runs])
    options = [f"checkpoint='{tmp_path}/ensemble.yaml'", "split=folds", "masks=true"]
    found = evaluate(compose([*options, f"output='{tmp_path}/all'"], "evaluate"))
    assert torch.equal(found.confusion, sum(run.evaluation.confusion for run in runs))
    assert len(found.images) == 10
    rows = {row["image"]: row["iou"] for row in read_csv(tmp_path / "all/images.csv")}
    for run in runs:
        for row in read_csv(run.folder / "images.csv"):
            assert rows[row["image"]] == pytest.approx(row["iou"])
    assert {path.stem for path in (tmp_path / "all/masks").iterdir()} == set(rows)
    source = CellsSource("binary", train=8, val=2, test=4, size=(64, 64))
    (sample,) = (s for s in source.splits()["train"] if s.name == "train-0001")
    own = next(run for run in runs if "train-0001" in (run.folder / "images.csv").read_text())
    expected = segkit.load(own.checkpoint, device="cpu")(source.read_image(sample)).labels
    written = read_mask(tmp_path / "all/masks/train-0001.png")
    assert np.array_equal(np.squeeze(written) == 255, expected == 1)
    with pytest.raises(SegkitError, match="trained on by one of the networks"):
        evaluate(compose([options[0], "split=val"], "evaluate"))
    twice = [options[0].replace("ensemble", "twice"), "split=folds"]
    write_ensemble(tmp_path / "twice.yaml", [runs[0].checkpoint] * 2)
    with pytest.raises(SegkitError, match="was validated by several"):
        evaluate(compose(twice, "evaluate"))


def test_masks_are_called_as_their_images():
    files = ["images/0.png", "a.tif#0003", "b.c"]
    samples = [Sample(name, Path(name.partition("#")[0])) for name in files]
    assert name_masks(samples) == [Path("images/0"), Path("a.tif#0003"), Path("b")]
    twins = [Sample(name, Path(name)) for name in ("a.png", "a.tif")]
    assert name_masks(twins) == [Path("a.png"), Path("a.tif")]
    assert name_masks([Sample("/etc/../../x")]) == [Path("etc/x")]


@pytest.mark.slow
def test_networks_without_a_fold_have_no_such_scores(binary_run, tmp_path):
    options = [f"checkpoint='{binary_run.checkpoint}'", "split=folds", f"output='{tmp_path}/x'"]
    with pytest.raises(
        SegkitError, match=r"network 1 of 1 was not trained with a fold: .*ensemble"
    ):
        evaluate(compose(options, "evaluate"))


@pytest.mark.nightly
def test_all_folds_end_with_one_table_and_the_scores_of_all_images(tmp_path):
    """As a user does it, and what the ensemble predicts."""
    train = ["segkit.train", "-m", *QUICK, "folds=2", "fold=0,1"]
    done = subprocess.run(
        [sys.executable, "-m", *train], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.glob("runs/quick/sweep_*")
    assert "mean ± standard deviation over the folds" in done.stdout
    assert (folder / "out_of_fold/report.html").is_file()
    assert len(list((folder / "out_of_fold/masks").iterdir())) == 12
    predict = ["segkit.evaluate", f"checkpoint={folder}/ensemble.yaml", "split=test"]
    done = subprocess.run(
        [sys.executable, "-m", *predict], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_slices_in_files_of_their_own_are_noted():
    names = [f"images/v{volume}_{slice_}.png" for volume in range(5) for slice_ in range(4)]
    splits: Any = {"train": list(map(Sample, names[:-2])), "val": list(map(Sample, names[-2:]))}
    [note] = describe_series(splits)
    assert "5 series" in note
    assert "images/v4_0.png" in note
    assert "1 of them" in note
    pattern = note.partition('data.groups="')[2].partition('"')[0]
    groups = find_groups(splits["train"], Fold(0, 2, pattern))
    assert set(groups) == {f"images/v{volume}_" for volume in range(5)}
    whole: Any = {"train": list(map(Sample, names[4:])), "val": list(map(Sample, names[:4]))}
    assert describe_series(whole) == []  # each is in one of them
    one: Any = {s: [Sample(f"images/{s}{n}.png") for n in range(9)] for s in ("train", "val")}
    assert describe_series(one) == []
