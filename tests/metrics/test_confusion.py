"""The confusion matrix by hand, against torchmetrics, over batches and over processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torchmetrics.functional.classification as peer
from torchmetrics import MetricCollection

from segkit.core.errors import SegkitError
from segkit.metrics import ConfusionMatrix

MODES = ["binary", "multiclass", "multilabel"]
CLASSES = {"binary": 2, "multiclass": 4, "multilabel": 3}


def batch(mode: str, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random labels and targets, a tenth of the targets ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 5, 7) if mode == "multilabel" else (count, 5, 7)
    classes = 2 if mode == "multilabel" else CLASSES[mode]
    labels = torch.randint(classes, shape, generator=generator)
    target = torch.randint(classes, shape, generator=generator)
    return labels, target.masked_fill(torch.rand(shape, generator=generator) < 0.1, 255)


def matrix(mode: str, *batches: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    metric = ConfusionMatrix(mode, CLASSES[mode])
    for labels, target in batches:
        metric.update(labels, target)
    return metric.compute()


def test_by_hand_rows_are_the_truth():
    labels = torch.tensor([[[0, 1, 1], [2, 2, 0]]])
    target = torch.tensor([[[0, 1, 2], [2, 0, 255]]])
    metric = ConfusionMatrix("multiclass", 3)
    metric.update(labels, target)
    assert metric.compute().tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_by_hand_binary():
    metric = ConfusionMatrix("binary", 2)
    metric.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]]))
    assert metric.compute().tolist() == [[1, 1], [0, 1]]


def test_by_hand_multilabel():
    labels = torch.tensor([[[[1, 0, 1]], [[0, 0, 1]]]])  # (1, 2, 1, 3)
    target = torch.tensor([[[[1, 1, 0]], [[0, 255, 1]]]])
    metric = ConfusionMatrix("multilabel", 2)
    metric.update(labels, target)
    assert metric.compute().tolist() == [[[0, 1], [1, 1]], [[1, 0], [0, 1]]]


def test_equals_torchmetrics():
    labels, target = batch("binary")
    expected = peer.binary_confusion_matrix(labels, target, ignore_index=255)
    assert torch.equal(matrix("binary", (labels, target)), expected)

    labels, target = batch("multiclass")
    expected = peer.multiclass_confusion_matrix(labels, target, num_classes=4, ignore_index=255)
    assert torch.equal(matrix("multiclass", (labels, target)), expected)

    labels, target = batch("multilabel")
    expected = peer.multilabel_confusion_matrix(labels, target, num_labels=3, ignore_index=255)
    assert torch.equal(matrix("multilabel", (labels, target)), expected)


@pytest.mark.parametrize("mode", MODES)
def test_many_batches_equal_one(mode):
    labels, target = batch(mode)
    parts = list(zip(labels.split([1, 3, 2]), target.split([1, 3, 2]), strict=True))
    assert torch.equal(matrix(mode, *parts), matrix(mode, (labels, target)))


@pytest.mark.parametrize("mode", MODES)
def test_processes_are_summed(mode):
    """Each process gathers the states of all and reduces them: here the gathering is simulated."""
    one, two = (ConfusionMatrix(mode, CLASSES[mode]) for _ in range(2))
    one.update(*batch(mode, seed=1))
    two.update(*batch(mode, seed=2))
    expected = matrix(mode, batch(mode, seed=1), batch(mode, seed=2))
    one.sync(
        dist_sync_fn=lambda state, group=None: [state, two.matrix],
        distributed_available=lambda: True,
    )
    assert torch.equal(one.matrix, expected)
    assert one.matrix.dtype == torch.int64
    one.unsync()
    assert torch.equal(one.matrix, matrix(mode, batch(mode, seed=1)))


@pytest.mark.slow
def test_two_real_processes_count_as_one(tmp_path):
    """One of them has a batch more, as at the end of an epoch."""
    code = """
import sys
import torch
from segkit.metrics import ConfusionMatrix

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
metric = ConfusionMatrix("multiclass", 4)
for number in [(0, 2, 4), (1, 3)][rank]:
    metric.update(*torch.load(f"{folder}/{number}.pt"))
total = metric.compute()
torch.save((total, metric.matrix), f"{folder}/result-{rank}.pt")
torch.distributed.destroy_process_group()
"""
    batches = [batch("multiclass", count=2, seed=seed) for seed in range(5)]
    for number, pair in enumerate(batches):
        torch.save(pair, tmp_path / f"{number}.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    expected = matrix("multiclass", *batches)
    own = []
    for rank in range(2):
        total, before = torch.load(tmp_path / f"result-{rank}.pt")
        assert torch.equal(total, expected)
        assert total.dtype == torch.int64
        own.append(before)
    assert torch.equal(own[0], matrix("multiclass", *batches[::2]))  # goes on with its own counts


@pytest.mark.parametrize("mode", MODES)
def test_forward_gives_the_batch_and_keeps_the_total(mode):
    metric = ConfusionMatrix(mode, CLASSES[mode])
    first, second = batch(mode, seed=1), batch(mode, seed=2)
    assert torch.equal(metric(*first), matrix(mode, first))
    assert torch.equal(metric(*second), matrix(mode, second))
    assert torch.equal(metric.compute(), matrix(mode, first, second))


def test_reset_starts_anew():
    metric = ConfusionMatrix("multiclass", 4)
    metric.update(*batch("multiclass"))
    metric.reset()
    metric.update(*batch("multiclass", seed=3))
    assert torch.equal(metric.compute(), matrix("multiclass", batch("multiclass", seed=3)))


def test_a_computed_matrix_stays_what_it_was():
    metric = ConfusionMatrix("binary", 2)
    metric.update(*batch("binary"))
    computed = metric.compute()
    before = computed.clone()
    metric.update(*batch("binary"))
    assert torch.equal(computed, before)


def test_counting_goes_on_after_inference_mode():
    metric = ConfusionMatrix("binary", 2)
    with torch.inference_mode():
        metric.reset()
        metric.update(*batch("binary", seed=1))
    metric.update(*batch("binary", seed=2))
    expected = matrix("binary", batch("binary", seed=1), batch("binary", seed=2))
    assert torch.equal(metric.compute(), expected)


def test_counts_are_exact_beyond_float32():
    metric = ConfusionMatrix("binary", 2)
    metric.matrix = torch.full((2, 2), 2**24)
    metric.update(torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert metric.compute().tolist() == [[2**24 + 1, 2**24], [2**24, 2**24]]


def test_half_precision_modules_keep_integer_counts():
    collection = torch.nn.ModuleList([MetricCollection([ConfusionMatrix("binary", 2)])])
    metric = collection.bfloat16()[0]["ConfusionMatrix"]
    metric.update(*batch("binary"))
    assert torch.equal(metric.compute(), matrix("binary", batch("binary")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_every_integer_dtype_is_taken(mode, dtype):
    labels, target = batch(mode)
    expected = matrix(mode, (labels, target))
    assert torch.equal(matrix(mode, (labels.to(dtype), target.to(dtype))), expected)


def test_bool_masks_are_taken():
    labels, _ = batch("binary", seed=1)
    target, _ = batch("binary", seed=2)
    expected = matrix("binary", (labels, target))
    assert torch.equal(matrix("binary", (labels.bool(), target.bool())), expected)


@pytest.mark.parametrize("mode", MODES)
def test_all_ignored_counts_nothing(mode):
    labels, target = batch(mode)
    assert matrix(mode, (labels, torch.full_like(target, 255))).sum() == 0


def test_a_label_map_is_one_class_per_pixel_in_multilabel():
    labels, _ = batch("multilabel")
    target = torch.randint(3, (6, 5, 7), generator=torch.Generator().manual_seed(5))
    target[0] = 255
    stack = torch.stack([target == c for c in range(3)], dim=1).long()
    stack[0] = 255
    assert torch.equal(
        matrix("multilabel", (labels, target)), matrix("multilabel", (labels, stack))
    )


def test_one_channel_means_two_classes_in_binary():
    metric = ConfusionMatrix("binary", 1)
    metric.update(*batch("binary"))
    assert torch.equal(metric.compute(), matrix("binary", batch("binary")))


@pytest.mark.parametrize(("mode", "classes"), [("binary", 3), ("multiclass", 1), ("multilabel", 0)])
def test_the_number_of_classes_goes_with_the_mode(mode, classes):
    with pytest.raises(SegkitError, match=f"num_classes is {classes}"):
        ConfusionMatrix(mode, classes)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SegkitError, match="binary, multiclass, multilabel"):
        ConfusionMatrix("multi", 3)


@pytest.mark.parametrize("mode", MODES)
def test_wrong_shapes_and_dtypes_are_refused(mode):
    metric = ConfusionMatrix(mode, CLASSES[mode])
    labels, target = batch(mode)
    with pytest.raises(SegkitError, match="decided labels"):
        metric.update(labels[0], target)
    with pytest.raises(SegkitError, match="decide them first"):
        metric.update(labels.float(), target)
    with pytest.raises(SegkitError, match="needs"):
        metric.update(labels, target[..., :3])
    with pytest.raises(SegkitError, match="needs"):
        metric.update(labels[:1], target)
    with pytest.raises(SegkitError, match=r"target\.long\(\)"):
        metric.update(labels, target.float())


@pytest.mark.parametrize("mode", MODES)
def test_labels_that_are_no_class_are_refused(mode):
    metric = ConfusionMatrix(mode, CLASSES[mode])
    labels, target = batch(mode)
    counted = target != 255
    with pytest.raises(SegkitError, match="the target contains the label"):
        metric.update(labels, target.masked_fill(counted, 9))
    with pytest.raises(SegkitError, match="the prediction contains the label"):
        metric.update(torch.full_like(labels, 9), target)
    metric.update(labels.masked_fill(~counted, 9), target)  # what is ignored may be anything
    assert torch.equal(metric.compute(), matrix(mode, (labels, target)))
