"""A sampling loop as a text: what it says, what it leaves to the model, what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffc_runtime.errors import BadRequest
from diffc_runtime.json_types import JsonDict
from diffc_runtime.loop import Loop
from diffc_runtime.schedulers import NAMES, scheduler
from diffc_runtime.schedules import SPACINGS

DDPM: JsonDict = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
FLOW: JsonDict = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("own", Loop()),
        ("ddim:50", Loop("ddim", 50)),
        ("DPM++:8", Loop("dpm++", 8)),
        ("euler:20:7.5", Loop("euler", 20, 7.5)),
        ("own:4", Loop(steps=4)),
        (" ddim : 4 @ trailing ", Loop("ddim", 4, spacing="trailing")),
        ("dpm++-karras:6:2@leading", Loop("dpm++-karras", 6, 2.0, "leading")),
    ],
)
def test_text_is_read(text: str, loop: Loop) -> None:
    assert Loop.parse(text) == loop


@given(
    st.builds(
        Loop,
        sampler=st.sampled_from((None, *NAMES)),
        steps=st.integers(1, 1000),
        guidance=st.none() | st.integers(2, 200).map(lambda n: n / 2),
        spacing=st.sampled_from((None, *SPACINGS)),
    )
)
def test_text_of_a_loop_reads_as_that_loop(loop: Loop) -> None:
    assert Loop.parse(str(loop)) == loop


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dmp++:8", "did you mean dpm++"),
        ("ddim:0", "from 1, not 0"),
        ("ddim:-3", "from 1, not -3"),
        ("ddim:1.5", "'1.5' is no number of steps"),
        ("ddim:many", "'many' is no number of steps"),
        ("ddim:", "is no loop"),
        ("", "is no loop"),
        (":8", "is no loop"),
        ("ddim:8:1:1", "is no loop"),
        ("ddim:8@", "is no loop"),
        ("ddim:8:x", "'x' is no guidance"),
        ("ddim:8:nan", "guidance must be"),
        ("ddim:8:inf", "guidance must be"),
        ("ddim:8:0.5", "guidance must be"),
        ("ddim:8@trailling", "did you mean trailing"),
    ],
)
def test_what_is_no_loop_is_refused_with_what_is_meant(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(said)):
        Loop.parse(text)


def test_what_a_loop_leaves_open_is_the_models() -> None:
    assert Loop().settled(DDPM, steps=50, guidance=4) == Loop("ddpm", 50, 4)
    assert Loop().settled({**DDPM, "num_train_timesteps": 10}, steps=50).steps == 10
    assert Loop("ddim", 8, 1.0).settled(DDPM, steps=50, guidance=4) == Loop("ddim", 8, 1.0)
    assert Loop().settled(FLOW, steps=28).sampler == "flow-euler"


def test_trajectory_is_the_samplers_at_the_loops_spacing() -> None:
    ours = Loop.parse("ddim:4@trailing").trajectory(DDPM)
    theirs = scheduler("ddim", {**DDPM, "timestep_spacing": "trailing"}, 4)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)
    assert ours.timesteps[0] == 999


@pytest.mark.parametrize(
    ("text", "config", "said"),
    [
        ("ddpm:4", FLOW, "flow-matching"),
        ("flow-euler:4", DDPM, "flow-matching"),
        ("ddim:1001", DDPM, "from 1 to 1000"),
        ("own:4", DDPM, "leaves open"),
    ],
)
def test_what_the_model_forbids_is_refused(text: str, config: JsonDict, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        Loop.parse(text).trajectory(config)
