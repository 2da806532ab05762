"""What every target guarantees, and what each one draws."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.core.labels import MODES
from segkit.data.sources.cells import draw
from segkit.targets.base import Target
from segkit.targets.distance import separate_objects
from segkit.targets.objects import number_objects, number_regions
from segkit.targets.weight_map import WeightMap

every_target = pytest.mark.parametrize("name", Target.names())
maps = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0, 0, 1, 2, 300, 255]),
)


def scene(seed: int = 0) -> np.ndarray:
    """Ids of touching cells, some pixels of them not labelled."""
    ids = number_objects(draw(seed, (120, 130), 1, (16, 20)).instances)
    ids[:, :9] = 255
    ids[50:60, 60:64] = 255
    return ids


def mask_for(target: Target, ids: np.ndarray) -> np.ndarray:
    if target.from_ids:
        return ids
    return np.where(ids == 255, 255, ids > 0).astype(np.uint8)


@every_target
@pytest.mark.parametrize("weight_map", [None, WeightMap()])
def test_labels_and_weights_have_their_types_and_shapes(name, weight_map):
    target = Target.build(name, weight_map=weight_map)
    ids = scene()
    labels, weight = target.encode(mask_for(target, ids))
    assert labels.dtype == np.uint8
    layers = (target.num_classes,) if target.modes == ("multilabel",) else ()
    assert labels.shape == (*ids.shape, *layers)
    assert np.array_equal(labels == 255, np.broadcast_to((ids == 255).T, labels.T.shape).T)
    most = 2 if layers else target.num_classes or 2
    assert set(np.unique(labels)) == {*range(most), 255}
    assert set(target.modes) <= set(MODES)
    assert target.decoders
    assert target.class_names is None or len(target.class_names) == target.num_classes
    if weight_map is None:
        assert weight is None
    else:
        assert weight.dtype == np.float32
        assert weight.shape == ids.shape
        assert np.array_equal(weight > 0, ids != 255)
        assert weight.max() > 5


@every_target
def test_rotating_the_mask_rotates_the_target(name):
    target = Target.build(name, weight_map=WeightMap())
    mask = mask_for(target, scene())
    before = mask.copy()
    labels, weight = pickle.loads(pickle.dumps(target)).encode(mask)  # as in a worker
    assert np.array_equal(mask, before)
    for turns in (1, 2, 3):
        turned, turned_weight = target.encode(np.ascontiguousarray(np.rot90(mask, turns)))
        assert np.array_equal(turned, np.rot90(labels, turns))
        assert np.allclose(turned_weight, np.rot90(weight, turns), atol=1e-5)


@every_target
def test_images_without_objects_and_of_one_pixel(name):
    target = Target.build(name, weight_map=WeightMap())
    dtype = np.uint16 if target.from_ids else np.uint8
    for value in (0, 255):
        labels, weight = target.encode(np.full((5, 7), value, dtype))
        assert (labels == value).all()
        assert (weight == (value == 0)).all()
    labels, weight = target.encode(np.ones((1, 1), dtype))
    assert (labels == 1).all()  # of border_core: core
    assert weight.tolist() == [[1]]


@every_target
def test_another_type_of_mask_is_an_error(name):
    target = Target.build(name)
    with pytest.raises(SegkitError, match=f"target '{name}' is drawn from .* not from int64"):
        target.encode(np.zeros((4, 4), np.int64))
    with pytest.raises(SegkitError, match="of the shape"):
        target.encode(np.zeros((4,), np.uint16 if target.from_ids else np.uint8))


def test_the_weight_map_of_labels_takes_regions_as_objects():
    target = Target.build("labels", weight_map={})
    assert set(target.modes) == {"binary", "multiclass"}
    assert set(Target.build("labels").modes) == set(MODES)
    mask = mask_for(target, scene())
    _, weight = target.encode(mask)
    regions = np.where(mask == 255, 0, number_regions(mask))
    assert np.array_equal(weight, WeightMap()(mask, regions))
    layers = np.random.default_rng(0).choice(np.array([0, 1, 9, 255], np.uint8), (6, 7, 3))
    assert np.array_equal(Target.build("labels").encode(layers)[0], layers)
    with pytest.raises(SegkitError, match=r"3 layers.*target\.weight_map=null"):
        target.encode(np.zeros((4, 4, 3), np.uint8))


@given(maps, st.integers(0, 3))
def test_foreground_is_what_the_gap_leaves(ids, gap):
    target = Target.build("foreground", gap=gap, weight_map={})
    labels, weight = target.encode(ids)
    kept = separate_objects(np.where(ids == 255, 0, ids), gap)
    assert target.gap == gap
    assert np.array_equal(labels, np.where(ids == 255, 255, kept > 0))
    assert np.array_equal(weight, WeightMap()(labels, kept))


def contour_distance(ids):
    """The distance to the nearest labelled pixel of anything else, object after object."""
    found = np.zeros(ids.shape)
    for number in set(np.unique(ids)) - {0, 255}:
        own = ids == number
        other = ~own & (ids != 255)
        away = ndimage.distance_transform_edt(~other) if other.any() else np.full(ids.shape, np.inf)
        found[own] = away[own]
    return found


@given(maps, st.integers(1, 4))
def test_the_border_is_what_is_near_something_else(ids, border):
    labels, _ = Target.build("border_core", border=border).encode(ids)
    distance = contour_distance(ids)
    objects = (ids > 0) & (ids != 255)
    assert np.array_equal(labels == 255, ids == 255)
    assert np.array_equal(labels == 0, ids == 0)
    assert set(np.unique(labels[objects])) <= {1, 2}
    thick = [n for n in np.unique(ids[objects]) if (distance[ids == n] > border).any()]
    if len(thick) == len(np.unique(ids[objects])):
        assert np.array_equal(labels == 1, objects & (distance > border))
    else:  # cores of thin objects are more, and take from others
        assert not (labels[np.isin(ids, thick) & (distance <= border)] == 1).any()


@given(maps, st.integers(1, 4))
def test_cores_never_touch_each_other(ids, border):
    """Between unlabelled pixels, cores of borders of one pixel can meet at a corner."""
    if border == 1:
        ids = np.where(ids == 255, 0, ids)
    labels, _ = Target.build("border_core", border=border).encode(ids)
    cores = np.where(labels == 1, ids, 0)
    assert np.array_equal(separate_objects(cores, 1), cores)


def test_a_thin_object_keeps_its_innermost_pixels_as_core():
    ids = np.zeros((9, 20), np.uint16)
    ids[3:6, 2:9] = 1  # three pixels high: the middle row, less its ends, is 2 deep
    ids[2:4, 12:18] = 2  # two pixels high: all are 1 deep
    ids[7, 12] = 3
    labels, _ = Target.build("border_core", border=3).encode(ids)
    assert np.argwhere(np.where(ids == 1, labels, 0) == 1).tolist() == [[4, x] for x in range(3, 8)]
    assert (labels[ids == 2] == 1).all()
    assert labels[7, 12] == 1


def test_cores_of_thin_objects_that_touch_are_kept_apart():
    ids = np.zeros((4, 12), np.uint16)
    ids[1:3, 2:6], ids[1:3, 6:10] = 1, 2
    labels, _ = Target.build("border_core", border=2).encode(ids)
    assert labels[1].tolist() == [0, 0, 1, 1, 1, 1, 2, 1, 1, 1, 0, 0]


def test_the_weight_map_of_border_core_reaches_the_borders():
    ids = np.zeros((20, 40), np.uint16)
    ids[3:17, 5:20], ids[3:17, 20:35] = 1, 2
    target = Target.build("border_core", border=2, weight_map={"balance": False})
    labels, weight = target.encode(ids)
    assert (weight[labels == 1] == 1).all()
    assert weight[10, 19] == pytest.approx(1 + 10 * np.exp(-1 / 50))
    assert weight[10, 19] == weight.max()


@given(maps, st.integers(2, 7))
def test_layers_are_the_levels_of_the_normalised_distance(ids, levels):
    target = Target.build("distance", levels=levels)
    labels, _ = target.encode(ids)
    assert target.class_names[:2] == ("object", f"distance > {1 / levels:.3g}")
    distance = contour_distance(ids)
    for number in set(np.unique(ids)) - {0, 255}:
        own = ids == number
        largest = distance[own].max()
        distance[own] = 1 if np.isinf(largest) else distance[own] / largest
    steps = np.arange(levels) / levels
    above = distance[..., None] > steps * (1 + 1e-6)
    unlabelled = (ids == 255)[..., None]
    # float32 decides where a distance equals a step
    tied = np.isclose(distance[..., None], steps, rtol=1e-6, atol=0) & (labels != 255)
    assert np.array_equal(np.where(tied, above, labels), np.where(unlabelled, 255, above))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("foreground", {"gap": -1}),
        ("border_core", {"border": 0}),
        ("distance", {"levels": 1}),
        ("distance", {"levels": 256}),
    ],
)
def test_options_out_of_range_are_errors(name, options):
    with pytest.raises(SegkitError, match=next(iter(options))):
        Target.build(name, **options)
