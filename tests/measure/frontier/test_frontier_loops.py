"""Which loops a frontier has."""

import pytest

from diffc.measure.frontier.loops import FrontierLoops, first_of, merged, short
from diffc_runtime.loop import Loop

BETAS = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "leading"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
REFERENCE = Loop("ddim", 50, 1.0)


def texts(wanted):
    return [short(one.loop) for one in wanted]


def test_the_reference_loop_is_first_and_each_loop_stands_once():
    twice = Loop("ddim", 50, 1.0, "leading")  # what its config says anyway
    loops = FrontierLoops(REFERENCE, (twice, Loop("dpm++", 8, 1.0)), "quick", 0.6)
    dense, small = loops.of_dense(BETAS), loops.of_compressed(BETAS)
    for wanted in (dense, small):
        assert len(set(texts(wanted))) == len(wanted)
    assert texts(dense)[:2] == ["ddim:50", "ddim:30"]
    assert first_of(dense, "same-time").loop.steps == 30 and first_of(dense, "own") is None
    assert texts(small)[:2] == ["ddim:50", "dpm++:8"]
    assert first_of(small, "own").roles == ("own", "grid")


@pytest.mark.parametrize("ratio", [0.3, 0.59, 0.61, 1.0, 1.7])
@pytest.mark.parametrize("own", [1, 2, 8, 50])
@pytest.mark.parametrize("guidance", [(1.0, 1.0), (7.0, 7.0), (7.0, 1.0)])
def test_as_many_dense_steps_as_fit(ratio, own, guidance):
    """Against counting: a dense row costs 10 ms, a compressed one 10 x ratio."""
    reference = Loop("ddim", 50, guidance[0])
    served = Loop("ddim", own, guidance[1])
    rows = [2 if scale != 1 else 1 for scale in guidance]
    time = own * rows[1] * 10 * ratio
    fits = [n for n in range(1, 51) if n * rows[0] * 10 <= time + 1e-6]
    wanted = FrontierLoops(reference, (served,), "off", ratio).of_dense(BETAS)
    same = [one.loop.steps for one in wanted if "same-time" in one.roles]
    assert same == fits[-1:]


def test_a_loop_that_is_cheaper_than_one_dense_call_has_no_dense_loop_of_its_time():
    wanted = FrontierLoops(REFERENCE, (Loop("ddim", 1, 1.0, "trailing"),), "quick", 0.6)
    dense = wanted.of_dense(BETAS)
    assert first_of(dense, "same-time") is None
    assert {"ddim:1", "ddim:1@trailing"} <= set(texts(dense))  # the fastest are there all the same


def test_the_loops_of_a_flow_stand_once_whatever_names_their_spacing():
    """The figures of samples name the spacing that a flow's config leaves out."""
    named, plain = (Loop("flow-euler", 2, 4.0, spacing) for spacing in ("linspace", None))
    wanted = FrontierLoops(named, (Loop("flow-euler", 1, 1.0),), "quick", 0.5)
    dense = texts(wanted.of_dense(FLOW))
    assert dense == texts(FrontierLoops(plain, wanted.own, "quick", 0.5).of_dense(FLOW))
    assert dense[0] == "flow-euler:2:4" and "@" not in " ".join(dense)
    assert texts(wanted.before_training(FLOW)) == ["flow-euler:2:4", "flow-euler:1:4"]


def test_a_flow_has_the_samplers_of_flows():
    wanted = FrontierLoops(
        Loop("flow-euler", 50, 1.0), (Loop("flow-euler", 50, 1.0),), "quick", 0.5
    )
    for loops in (wanted.of_dense(FLOW), wanted.of_compressed(FLOW)):
        assert {one.loop.sampler for one in loops} == {"flow-euler", "flow-dpm++"}
        assert all(one.loop.spacing is None for one in loops)


def test_a_model_of_one_timestep_has_one_loop():
    config = {**BETAS, "num_train_timesteps": 1}
    one = Loop("ddim", 1, 1.0)
    loops = FrontierLoops(one, (one,), "full", 0.5)
    assert texts(loops.of_dense(config)) == texts(loops.of_compressed(config)) == ["ddim:1"]


def test_loops_beyond_the_timesteps_and_of_another_process_are_left_out():
    config = {**BETAS, "num_train_timesteps": 4}
    pairs = [(Loop("ddim", 5, 1.0), "grid"), (Loop("flow-euler", 2, 1.0), "grid"),
             (Loop("ddim", 4, 1.0), "grid")]  # fmt: skip
    assert texts(merged(pairs, config)) == ["ddim:4"]


def test_a_full_frontier_has_more_loops_and_nine_tenths_of_the_steps():
    quick, full = (
        FrontierLoops(REFERENCE, (REFERENCE,), extent, 0.6) for extent in ("quick", "full")
    )
    assert set(texts(quick.of_dense(BETAS))) < set(texts(full.of_dense(BETAS)))
    assert short(first_of(full.of_dense(BETAS), "fewer-steps").loop) == "ddim:45"
    assert first_of(quick.of_dense(BETAS), "fewer-steps") is None


def test_each_own_loop_is_measured_with_the_reference_guidance_too():
    """So that what guidance costs is one rung of the ladder."""
    reference, own = Loop("ddim", 50, 7.0), Loop("ddim", 2, 1.0)
    small = texts(FrontierLoops(reference, (own,), "off").of_compressed(BETAS))
    assert small == ["ddim:2", "ddim:50:7", "ddim:2:7"]


@pytest.mark.parametrize("sampler", ["ddim", "heun", "pndm"])
@pytest.mark.parametrize("own", ["ddim:8", "heun:5", "pndm:4"])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.1])
def test_as_many_steps_of_any_sampler_as_fit(sampler, own, ratio):
    """Heun's method takes two calls a step but the last, PNDM one more than it has steps."""
    rows = {
        "ddim": lambda n: n,
        "heun": lambda n: 2 * n - 1,
        "pndm": lambda n: n + 1 if n > 1 else 1,
    }
    served = Loop.parse(own + ":1")
    room = rows[served.sampler](served.steps) * ratio
    fits = [n for n in range(1, 51) if rows[sampler](n) <= room]
    wanted = FrontierLoops(Loop(sampler, 50, 1.0), (served,), "off", ratio).of_dense(BETAS)
    assert [one.loop.steps for one in wanted if "same-time" in one.roles] == fits[-1:]


@pytest.mark.parametrize(
    ("text", "rows"), [("ddim:5", 5), ("heun:5", 9), ("pndm:5", 6), ("ddim:5:7", 10)]
)
def test_rows_of_an_image(text, rows):
    assert Loop.parse(text).rows(BETAS) == rows
