"""Shapes are checked before a library is called; good ones become profiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffc.errors import InputError, RequestError
from diffc.targets.base import BuildOptions, Range
from diffc.targets.onnx_file import InputSpec, OnnxModel
from diffc.targets.shapes import check_inputs, profile_index, profiles

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
    assert check_inputs(SPECS, served, arrays(one)) == one
    assert served[profile_index(served, one)]["sample"].opt[0] == one
