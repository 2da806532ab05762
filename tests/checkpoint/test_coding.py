"""Values of masks to labels and back."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import SegkitError


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "bool"])
def test_values_that_mean_themselves(dtype: str) -> None:
    mask = np.array([[0, 1], [1, 0]], dtype)
    labels = LabelCoding({}).encode(mask)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, mask.astype(np.uint8))
    labels[:] = 7
    assert mask.max() <= 1  # a copy


def test_a_map_beyond_8_bits_does_not_wrap() -> None:
    mask = np.array([[0, 256, 300], [512, 255, 44]], np.uint16)
    coding = LabelCoding({256: 1, 300: 2, 512: 255})
    np.testing.assert_array_equal(coding.encode(mask), [[0, 1, 2], [255, 255, 44]])
    np.testing.assert_array_equal(LabelCoding({-1: 255}).encode(np.array([[-1, 3]])), [[255, 3]])


@pytest.mark.parametrize("value", [256, 300, 65_535, -1])
def test_a_value_that_is_no_label_is_an_error(value: int) -> None:
    with pytest.raises(SegkitError, match=rf"{value}.*data\.label_map"):
        LabelCoding({}).encode(np.array([[0, value]], np.int32))


def test_a_map_is_applied_at_once_and_not_one_after_the_other() -> None:
    swapped = LabelCoding({0: 1, 1: 0})
    np.testing.assert_array_equal(swapped.encode(np.array([[0, 1]], np.uint8)), [[1, 0]])
    assert [swapped.value_of(label) for label in (0, 1)] == [1, 0]
    assert LabelCoding({-2: 0, 7: 1}).value_of(0) == 0  # what is written is no missing pixel


def test_ids_are_foreground_but_for_those_that_are_mapped() -> None:
    coding = LabelCoding({9: 255}, foreground=True)
    mask = np.array([[0, 1, 256, 9]], np.uint16)
    np.testing.assert_array_equal(coding.encode(mask), [[0, 1, 1, 255]])
    assert (coding.value_of(0), coding.value_of(1)) == (0, 255)


def test_layers_keep_their_shape() -> None:
    mask = np.array([[[0, 255], [255, 255]]], np.uint8)
    np.testing.assert_array_equal(LabelCoding({255: 1}).encode(mask), mask // 255)


@pytest.mark.parametrize("foreground", [False, True])
def test_the_lookup_of_8_bits_is_the_way_of_wider_masks(foreground: bool) -> None:
    mask = np.arange(1024).reshape(16, 32, 2) % 256
    coding = LabelCoding({3: 0, 200: 7, 255: 1}, foreground)
    for part in (mask, mask[::-2, 5:-3], mask[..., 0], mask.transpose(2, 1, 0)):  # not in one piece
        narrow = coding.encode(part.astype(np.uint8, order="K"))
        assert narrow.flags.writeable
        np.testing.assert_array_equal(narrow, coding.encode(part.astype(np.int32)))
    view = mask.astype(np.uint8)[:, ::2]
    np.testing.assert_array_equal(coding.encode(view), coding.encode(mask[:, ::2]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.integers(0, 70_000), st.integers(0, 255), max_size=6), st.data())
def test_encode_does_what_label_of_says(label_map: dict[int, int], data: st.DataObject) -> None:
    coding = LabelCoding(label_map)
    values = data.draw(st.lists(st.sampled_from([*range(256), *label_map]), min_size=1))
    labels = coding.encode(np.array([values], np.int32))
    assert labels.tolist() == [[coding.label_of(value) for value in values]]
