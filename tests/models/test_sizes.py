"""The arithmetic of the unpadded network against the network itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.errors import SegkitError
from segkit.models.segmenter import create_model
from segkit.models.sizes import check_valid, valid_input, valid_output


def run(height: int, width: int, depth: int) -> tuple[int, int]:
    """The size of the raw logits of an unpadded network."""
    model = create_model(
        {"name": "unet", "padding": "valid", "width": 1, "depth": depth, "norm": "none"},
        {"name": "unet", "upsample": "nearest"},
        in_channels=1,
    )
    with torch.no_grad():
        maps = model.encoder(torch.zeros(1, 1, height, width))
        return tuple(model.head(model.neck(maps)).shape[-2:])


def test_the_sizes_of_the_paper():
    assert valid_output(572, depth=5) == 388
    assert valid_input(388, depth=5) == 572
    assert check_valid(572, 572, 5) == (388, 388)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 60), st.integers(1, 60))
def test_the_formula_is_what_the_network_gives(depth, height, width):
    sizes = [valid_input(target, depth) for target in (height, width)]
    outputs = tuple(valid_output(size, depth) for size in sizes)
    assert run(*sizes, depth) == outputs == check_valid(*sizes, depth)


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 6), st.integers(1, 700))
def test_valid_input_is_the_smallest_that_will_do(depth, target):
    fitting = [
        size
        for size in range(1, target + 4 * depth * 2**depth)
        if (valid_output(size, depth) or 0) >= target
    ]
    assert valid_input(target, depth) == fitting[0]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 6), st.integers(1, 800))
def test_a_size_that_does_not_fit_is_an_error_that_names_the_next_one(depth, size):
    if valid_output(size, depth) is not None:
        return
    with pytest.raises(SegkitError, match="unpadded network of depth") as caught:
        check_valid(size, size, depth)
    near = int(str(caught.value).rpartition(" x ")[2].rstrip("."))
    assert near > size
    assert valid_output(near, depth) is not None
    assert all(valid_output(n, depth) is None for n in range(size, near))
