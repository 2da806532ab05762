from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import segkit
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import Normalization
from segkit.inference.objects.object_classes import classify_objects, list_object_classes

NUCLEI = {"name": "folder", "instances": True, "class_names": ["background", "nucleus"]}


def card(mode, names, target, data=None, background=0) -> ModelCard:
    return ModelCard(
        encoder={"name": "unet"},
        neck={"name": "unet"},
        head={"name": mode},
        in_channels=1,
        num_classes=len(names),
        auxiliary=0,
        img_size=(64, 64),
        class_names=names,
        class_colors=tuple((i, 100, 200) for i in range(len(names))),
        normalization=Normalization("uint8", 0, 255, (0.5,), (0.2,)),
        mask_values=tuple(range(len(names))),
        background=background,
        target={"name": target},
        mode=mode,
        config={} if data is None else {"data": data},
    )


@pytest.mark.parametrize(
    ("mode", "names", "target", "data", "expected"),
    [
        ("binary", ("background", "nucleus"), "foreground", NUCLEI, "nucleus"),
        ("multiclass", ("background", "nucleus"), "foreground", NUCLEI, "nucleus"),
        ("multiclass", ("background", "core", "border"), "border_core", NUCLEI, "nucleus"),
        ("multilabel", ("object", "distance > 0.5"), "distance", NUCLEI, "nucleus"),
        # sources that name their objects themselves, and data that nobody named
        ("multilabel", ("object", "distance > 0.5"), "distance", {"name": "cells"}, "cell"),
        ("multilabel", ("object", "distance > 0.5"), "distance", {"name": "folder"}, "object"),
        ("multilabel", ("object", "distance > 0.5"), "distance", {"name": "gone"}, "object"),
        ("multilabel", ("object", "distance > 0.5"), "distance", None, "object"),
    ],
)
def test_objects_of_ids_have_the_name_that_the_data_give(mode, names, target, data, expected):
    model = card(mode, names, target, data)
    color = (0 if mode == "multilabel" else 1, 100, 200)
    assert list_object_classes(model) == [(expected, color)]
    ids = np.array([[1, 1, 0, 3]], np.int32)
    labels = np.full((len(names), 1, 4) if mode == "multilabel" else (1, 4), 1, np.uint8)
    assert classify_objects(ids, labels, model).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("background", [0, None])
def test_an_object_has_the_class_of_most_of_its_pixels(background):
    model = card("multiclass", ("ground", "dim", "bright"), "labels", background=background)
    assert [each.name for each in list_object_classes(model)] == ["dim", "bright"]
    ids = np.array([[1, 1, 1, 2, 2, 2, 2, 0]], np.int32)
    labels = np.array([[1, 2, 2, 0, 0, 0, 1, 2]], np.uint8)  # the second one had a hole
    assert classify_objects(ids, labels, model)[1:].tolist() == [1, 0]


def test_a_trained_model_calls_its_objects_what_they_are(border_core_run, binary_run):
    found = segkit.load(border_core_run.checkpoint, device="cpu").card
    assert [each.name for each in list_object_classes(found)] == ["cell"]
    binary = segkit.load(binary_run.checkpoint, device="cpu").card
    assert [each.name for each in list_object_classes(binary)] == ["cell"]
    unnamed = dataclasses.replace(binary, class_names=("background", "foreground"))
    assert [each.name for each in list_object_classes(unnamed)] == ["foreground"]
