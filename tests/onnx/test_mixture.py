"""Which layers stay in fp32: what is tried, and what is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffc.errors import CheckFailed
from diffc_export.events import drain
from diffc_export.onnx.mixture import GROUPED_MOST, choose_fp32_layers
from diffc_export.onnx.quantize import QuantizeOptions


class Additive:
    """A session whose layers' squared errors add up."""

    def __init__(self, errors):
        self.errors = errors
        self.trials = 0

    def sort_rows(self):
        return self.error([])

    def error(self, kept, _limit=None, rows=None):
        self.trials += 1
        rest = [e * e for name, e in self.errors.items() if name not in kept]
        return float(np.sqrt(sum(rest)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(1, 1e6)), min_size=2, max_size=12),
    st.floats(0.05, 0.9),
)
def test_no_layer_stays_that_need_not(layers, tolerance):
    """Within the tolerance, and none of them could go back to int8."""
    errors = {f"layer {i}": error for i, (error, _) in enumerate(layers)}
    work = {f"layer {i}": macs for i, (_, macs) in enumerate(layers)}
    session, options = Additive(errors), QuantizeOptions(tolerance=tolerance, keep_most=1.0)
    kept, error = drain(choose_fp32_layers(session, list(errors), options, work))
    assert error == session.error(kept) <= tolerance
    for name in kept:
        assert session.error([other for other in kept if other != name]) > tolerance


def test_a_dear_layer_stays_where_the_cheap_ones_are_not_enough():
    errors = {"dear": 0.5, "cheap 1": 0.2, "cheap 2": 0.2, "cheap 3": 0.2}
    work = dict.fromkeys(errors, 1.0) | {"dear": 1e9}
    options = QuantizeOptions(tolerance=0.4, keep_most=0.5)
    assert drain(choose_fp32_layers(Additive(errors), list(errors), options, work))[0] == ["dear"]


@pytest.mark.parametrize(("layers", "most"), [(50, 0.9), (59, 0.5), (2, 0.5), (3, 0.34)])
def test_as_many_layers_as_are_allowed_are_tried(layers, most):
    """Whatever a twentieth of them is; and not one more."""
    allowed = int(layers * most)
    errors = {f"layer {i:02}": 0.2 for i in range(layers)}
    work = dict.fromkeys(errors, 1.0)

    def choice(count):
        """Of a tolerance that needs so many layers in fp32."""
        within = 0.2 * math.sqrt(layers - count) + 1e-9
        options = QuantizeOptions(tolerance=within, keep_most=most)
        return choose_fp32_layers(Additive(errors), list(errors), options, work)

    assert len(drain(choice(allowed))[0]) == allowed
    with pytest.raises(CheckFailed, match="of the layers in fp32"):
        drain(choice(allowed + 1))


def test_of_two_equally_bad_layers_the_cheap_one_stays():
    errors = {"dear": 0.5, "cheap": 0.5, **{f"fine {i}": 0.001 for i in range(18)}}
    work = dict.fromkeys(errors, 10.0) | {"dear": 1e6}
    options = QuantizeOptions(tolerance=0.6)
    assert drain(choose_fp32_layers(Additive(errors), list(errors), options, work))[0] == ["cheap"]


LAYERS = 400
STEP = LAYERS // 20  # layers that go to fp32 at a time


@pytest.mark.parametrize("bad", [(17,), (0, 399), (120, 121, 300)])
def test_groups_find_the_few_bad_layers_in_few_trials(bad):
    """The same layers are kept, after a fourth of the trials of single layers and less."""
    errors = {f"layer {i:03}": 0.3 if i in bad else 0.001 for i in range(LAYERS)}
    work = dict.fromkeys(errors, 10.0)
    options = QuantizeOptions(tolerance=0.1)
    trials = Additive(errors)
    kept, error = drain(choose_fp32_layers(trials, list(errors), options, work, grouped=True))
    assert error <= options.tolerance
    names = [f"layer {i:03}" for i in bad]
    assert set(names) <= set(kept) and len(kept) <= STEP
    assert trials.trials < GROUPED_MOST + 2 * STEP + 5 < LAYERS / 4
    alone = Additive(errors)
    assert drain(choose_fp32_layers(alone, list(errors), options, work))[0] == names
    assert alone.trials > LAYERS


def test_a_layer_in_an_undivided_group_has_its_share_of_the_error():
    """All alike: each estimate is the layer's own, so that the work alone decides."""
    errors = {f"layer {i:03}": 0.01 for i in range(LAYERS)}
    work = {name: float(index + 1) for index, name in enumerate(errors)}
    options = QuantizeOptions(tolerance=0.18)  # of 0.2 in all
    kept, error = drain(
        choose_fp32_layers(Additive(errors), list(errors), options, work, grouped=True)
    )
    assert error <= options.tolerance and kept == sorted(errors)[: len(kept)]


def test_before_a_network_is_refused_each_layer_is_tried():
    """Fifty dear layers are bad, one in each eight: groups cannot tell them from the cheap ones."""
    bad = {f"layer {i:03}" for i in range(0, LAYERS, 8)}
    errors = {f"layer {i:03}": 0.1 if f"layer {i:03}" in bad else 0.001 for i in range(LAYERS)}
    work = {name: 1000.0 if name in bad else 1.0 for name in errors}
    options = QuantizeOptions(tolerance=0.05, keep_most=0.2)
    trials = Additive(errors)
    kept, error = drain(choose_fp32_layers(trials, list(errors), options, work, grouped=True))
    assert error <= options.tolerance and bad <= set(kept)
    assert LAYERS < trials.trials < 3 * LAYERS
    few = QuantizeOptions(tolerance=0.05, keep_most=0.1)
    for precision in ("int8", "fp8"):
        choice = choose_fp32_layers(
            trials, list(errors), few, work, grouped=True, precision=precision
        )
        with pytest.raises(CheckFailed, match=f"^{precision} leaves.* 10% of the layers in fp32"):
            drain(choice)
