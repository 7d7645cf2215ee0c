"""Shapes are checked before a library is called; good ones become profiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffc.errors import InputError, RequestError
from diffc_export.targets.base import BuildOptions, Range
from diffc_export.targets.onnx_file import InputSpec, OnnxModel
from diffc_export.targets.shapes import (
    batch_of,
    call_of,
    check_inputs,
    is_static,
    output_shape,
    profile_index,
    profiles,
    serves,
)

SPECS = (InputSpec("sample", (3, 8, 8), "float32", "sample"), InputSpec("timestep", (), "int64"))
MODEL = OnnxModel("model.onnx", SPECS, (), {}, ())


def ranges(low=1, usual=2, high=4, **changed):
    made = {
        "sample": Range((low, 3, 8, 8), (usual, 3, 8, 8), (high, 3, 8, 8)),
        "timestep": Range((low,), (usual,), (high,)),
    }
    return BuildOptions(ranges=({**made, **changed},))


def test_each_batch_is_a_profile_of_its_own():
    found = profiles(MODEL, BuildOptions(batch=(8, 1, 4, 4)))
    assert [p["sample"].opt[0] for p in found] == [1, 4, 8]
    assert all(p["sample"].min == p["sample"].max == p["sample"].opt for p in found)
    assert found[1]["timestep"] == Range((4,), (4,), (4,))


def test_one_profile_spans_the_batches():
    (found,) = profiles(MODEL, BuildOptions(batch=(1, 4, 8), one_profile=True))
    assert found["sample"] == Range((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))


@pytest.mark.parametrize("batch", [(), (0,), (-1, 4)])
def test_batches_below_one_are_refused(batch):
    with pytest.raises(RequestError, match="1 or more"):
        profiles(MODEL, BuildOptions(batch=batch))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ranges(4, 2, 8), "min <= opt <= max"),
        (ranges(1, 9, 8), "min <= opt <= max"),
        (ranges(0, 1, 2), "min <= opt <= max"),
        (ranges(sample=Range((1, 3, 8), (1, 3, 8), (1, 3, 8))), "'sample' has 4 dimensions"),
        (
            ranges(sample=Range((1, 3, 8, 8), (2, 3, 8, 9), (4, 3, 8, 8))),
            r"'sample' is fixed at \(3, 8, 8\)",
        ),
        (ranges(timestep=Range((1,), (1,), (8,))), "batch ranges differ"),
        (ranges(samples=Range((1,), (1,), (1,))), "unknown input 'samples'"),
    ],
)
def test_ranges_that_no_builder_takes_name_the_input(options, words):
    with pytest.raises(RequestError, match=words):
        profiles(MODEL, options)


FIXED = OnnxModel("model.onnx", SPECS, (), {}, (), fixed={"sample": 4, "timestep": 4})


def test_a_batch_that_the_graph_fixes_is_the_only_one():
    (found,) = profiles(FIXED, BuildOptions(batch=(4,)))
    assert found["sample"].opt[0] == 4
    with pytest.raises(RequestError, match="input 'sample' is fixed at batch 4, not 1") as caught:
        profiles(FIXED, BuildOptions(batch=(1, 4)))
    assert "--batch 4" in caught.value.hint
    with pytest.raises(RequestError, match="fixed at batch 4, not 1-8"):
        profiles(FIXED, BuildOptions(batch=(1, 8), one_profile=True))
    with pytest.raises(RequestError, match="fixed at batch 4, not 1-4"):
        profiles(FIXED, ranges(1, 2, 4))


def test_missing_range_names_the_input():
    options = BuildOptions(ranges=({"timestep": Range((1,), (1,), (1,))},))
    with pytest.raises(RequestError, match="'sample' is missing"):
        profiles(MODEL, options)


def arrays(batch=2, **changed):
    made = {"sample": np.zeros((batch, 3, 8, 8), np.float32), "timestep": np.zeros(batch, np.int64)}
    return {**made, **changed}


SERVED = profiles(MODEL, BuildOptions(batch=(1, 2)))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"sample": arrays()["sample"]}, "'timestep' is missing"),
        (arrays(labels=np.zeros(2)), "no input 'labels'"),
        (arrays(sample=np.zeros((2, 3, 8, 9), np.float32)), "'sample' must be"),
        (arrays(sample=np.zeros((2, 3, 8, 8))), "must be float32, not float64"),
        (arrays(timestep=np.zeros(1, np.int64)), "batch sizes differ"),
        (arrays(timestep=np.int64(3)), "'timestep' must be"),
        (arrays(3), "not built for batch 3"),
    ],
)
def test_inputs_an_engine_cannot_take_are_named(inputs, words):
    with pytest.raises(InputError, match=words):
        check_inputs(SPECS, SERVED, inputs)


@given(st.sets(st.integers(1, 32), min_size=1, max_size=6), st.data())
def test_every_batch_asked_for_is_served_by_its_own_profile(batch, data):
    served = profiles(MODEL, BuildOptions(batch=tuple(batch)))
    one = data.draw(st.sampled_from(sorted(batch)))
    call = check_inputs(SPECS, served, arrays(one))
    assert batch_of(call) == one
    assert served[profile_index(served, call)]["sample"].opt[0] == one


def sized(*sizes):
    sample = InputSpec("sample", (3, *sizes[0]), "float32", "sample", sizes)
    return OnnxModel("model.onnx", (sample, SPECS[1]), (), {}, ())


def at(height, width, batch=2):
    return arrays(batch, sample=np.zeros((batch, 3, height, width), np.float32))


def test_each_resolution_and_batch_is_a_profile_of_its_own():
    found = profiles(sized((16, 16), (8, 8)), BuildOptions(batch=(4, 1)))
    assert [p["sample"].opt for p in found] == [
        (1, 3, 16, 16), (4, 3, 16, 16), (1, 3, 8, 8), (4, 3, 8, 8),
    ]  # fmt: skip
    assert all(is_static([p]) for p in found)


def test_one_profile_spans_resolutions_and_is_best_at_the_working_one():
    options = BuildOptions(batch=(1, 4, 8), one_profile=True)
    (found,) = profiles(sized((16, 16), (8, 24), (24, 8)), options)
    assert found["sample"] == Range((1, 3, 8, 8), (4, 3, 16, 16), (8, 3, 24, 24))
    assert found["timestep"] == Range((1,), (4,), (8,))
    assert not is_static([found])


def test_a_range_of_sides_out_of_order_names_the_side():
    low, usual, high = (1, 3, 8, 8), (1, 3, 8, 16), (1, 3, 8, 12)
    timestep = Range((1,), (1,), (1,))
    options = BuildOptions(ranges=({"sample": Range(low, usual, high), "timestep": timestep},))
    with pytest.raises(RequestError, match=r"width range of input 'sample'.* 8, 16, 12"):
        profiles(sized((8, 8), (8, 16)), options)


def test_a_range_of_other_channels_is_refused_whatever_the_size():
    shape = (1, 4, 8, 8)
    spans = {"sample": Range(shape, shape, shape), "timestep": Range((1,), (1,), (1,))}
    with pytest.raises(RequestError, match=r"'sample' is \(3, height, width\)"):
        profiles(sized((8, 8), (16, 16)), BuildOptions(ranges=(spans,)))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (at(12, 12), "not built for batch 2 at 12x12"),
        (at(16, 8), "not built for batch 2 at 16x8"),
        (at(8, 8, batch=3), "not built for batch 3 at 8x8"),
        (arrays(sample=np.zeros((2, 4, 8, 8), np.float32)), "'batch', 3, 'height', 'width'"),
        (arrays(sample=np.zeros((2, 3, 8), np.float32)), "'batch', 3, 'height', 'width'"),
    ],
)
def test_a_call_at_a_size_that_was_not_built_is_refused(inputs, words):
    model = sized((8, 8), (16, 16))
    with pytest.raises(InputError, match=words) as caught:
        check_inputs(model.inputs, profiles(model, BuildOptions(batch=(1, 2))), inputs)
    if "not built" in words:
        hint = "it was built for batch 1, 2 at 8x8, 16x16; build again with --batch or --resolution"
        assert caught.value.hint == hint


def test_a_range_is_said_as_one():
    model = sized((8, 8), (16, 16))
    served = profiles(model, BuildOptions(batch=(1, 4), one_profile=True))
    check_inputs(model.inputs, served, at(12, 16, batch=3))
    with pytest.raises(InputError) as caught:
        check_inputs(model.inputs, served, at(20, 16))
    assert "for batch 1-4 at 8x8-16x16;" in caught.value.hint


SIDES = st.sets(st.integers(1, 12), min_size=1, max_size=4)


@given(SIDES, SIDES, st.sets(st.integers(1, 8), min_size=1, max_size=3), st.data())
def test_what_was_asked_for_is_served_and_nothing_else(heights, widths, batch, data):
    """Against the plain set of shapes: each in the profile that is best at it, others refused."""
    sizes = tuple((h, w) for h in heights for w in widths)
    model = sized(*sizes)
    served = profiles(model, BuildOptions(batch=tuple(batch)))
    rows, height, width = (data.draw(st.integers(1, 13)) for _ in range(3))
    call = call_of(model.inputs, rows, (height, width))
    asked = rows in batch and (height, width) in sizes
    assert serves(served, call) == asked
    if asked:
        assert check_inputs(model.inputs, served, at(height, width, rows)) == call
        assert served[profile_index(served, call)]["sample"].opt == (rows, 3, height, width)


@given(SIDES, st.sets(st.integers(1, 8), min_size=1, max_size=3))
def test_one_profile_serves_all_that_lies_between(sides, batch):
    model = sized(*((side, side) for side in sides))
    served = profiles(model, BuildOptions(batch=tuple(batch), one_profile=True))
    for rows in range(10):
        for side in range(1, 14):
            inside = min(batch) <= rows <= max(batch) and min(sides) <= side <= max(sides)
            assert serves(served, call_of(model.inputs, rows, (side, side))) == inside


def test_an_output_grows_with_the_sample():
    model = sized((8, 8), (16, 24))
    decoded = InputSpec("image", (3, 64, 64))
    assert output_shape(model.inputs, decoded, call_of(model.inputs, 2, (16, 24))) == (
        2, 3, 128, 192,
    )  # fmt: skip
    assert output_shape(SPECS, decoded, call_of(SPECS, 5)) == (5, 3, 64, 64)
