"""Numbers of steps that a model has too few timesteps for are lowered, and a note says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import save_ddpm
from support.runs import compile_quickly

from diffc.data.loops import run_loops
from diffc.data.sampling import deterministic_loop
from diffc.models.diffusion import process_from_scheduler
from diffc.models.schedulers import fitting_steps, steps_note
from diffc.recipe import Recipe
from diffc_runtime.errors import BadRequest
from diffc_runtime.schedulers import scheduler

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize(
    ("total", "offset", "steps", "fitting"),
    [
        (1000, 0, 50, 50),
        (30, 0, 50, 30),
        (20, 1, 20, 19),
        (10, 1, 20, 9),
        (1, 0, 20, 1),
        (7, 6, 7, 1),
    ],
)
def test_steps_are_lowered_to_what_fits(total, offset, steps, fitting) -> None:
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": total, "steps_offset": offset}
    assert fitting_steps(config, steps) == fitting
    made = deterministic_loop(config, steps)
    times = made.trajectory((1, 8, 8)).timesteps
    assert made.info.loop.steps == fitting == len(times)
    assert int(times.max()) < total
    note = steps_note(config, "steps", steps)
    assert bool(note) == (fitting != steps)
    assert not note or f"{fitting} instead of {steps}" in note[0]


@given(
    total=st.integers(1, 1200),
    offset=st.integers(0, 3),
    steps=st.integers(1, 1300),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
)
def test_every_number_of_steps_ends_in_timesteps_of_the_model(
    total, offset, steps, spacing
) -> None:
    config = {
        "_class_name": "DDIMScheduler", "num_train_timesteps": total,
        "steps_offset": min(offset, total - 1), "timestep_spacing": spacing,
    }  # fmt: skip
    times = deterministic_loop(config, steps).trajectory((1, 8, 8)).timesteps
    assert 1 <= len(times) <= steps
    assert int(times.min()) >= 0 and int(times.max()) < total


def test_the_runtime_refuses_to_visit_a_timestep_twice() -> None:
    """There DPM-Solver divides by a step of no length."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 10}
    with pytest.raises(BadRequest, match="take fewer steps"):
        scheduler("dpm++", config, 10)


@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_a_reference_trajectory_has_no_more_steps_than_the_model(total) -> None:
    from diffc.measure.reference import ddim_coefficients

    process = process_from_scheduler({"_class_name": "DDPMScheduler", "num_train_timesteps": total})
    steps = max(1, min(10, total - 1))
    t = torch.linspace(total - 1, 0, steps + 1).round().long()
    assert np.isfinite(ddim_coefficients(process, t).numpy()).all()
    assert total == 1 or len(set(t.tolist())) == len(t)


def notes_of(out) -> list[str]:
    from diffc.output import read_notes

    return read_notes(out)


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 3, 30])
def test_a_model_of_few_timesteps_is_compiled(tmp_path, total) -> None:
    """Data, the curve of quality and the compared samples all ask for more."""
    model = save_ddpm(tmp_path / "m", DDPMScheduler(num_train_timesteps=total))
    report = compile_quickly(
        model, tmp_path / "out", data={"steps": 40}, reference_loop=None,
        distill={"quality_every": 2},
    )  # fmt: skip
    assert any(f"{total} instead of 50" in note for note in report.notes), report.notes
    assert any(f"{total} instead of 40" in note for note in report.notes), report.notes


@pytest.mark.slow
def test_an_offset_leaves_room_for_one_step_less(tmp_path) -> None:
    model = save_ddpm(tmp_path / "m", DDIMScheduler(num_train_timesteps=20, steps_offset=1))
    report = compile_quickly(model, tmp_path / "out", data={"steps": 20})
    assert any("19 instead of 20" in note for note in report.notes), report.notes


@pytest.mark.parametrize(
    ("config", "fitting"),
    [
        ({"_class_name": "DDPMScheduler", "num_train_timesteps": 10}, "ddim:10"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 50, "steps_offset": 1}, "ddim:49"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 4},
            "flow-euler:4",
        ),
        ({"_class_name": "DDPMScheduler"}, "ddim:50"),
        ({"_class_name": "EDMEulerScheduler"}, "ddim:50"),  # that it has no sampler is said later
        ({}, "ddim:50"),
    ],
)
def test_the_usual_loop_has_no_more_steps_than_its_sampler(config, fitting) -> None:
    loops = run_loops(Recipe(), config)
    assert str(loops.first) == str(loops.reference) == f"{fitting}:1"


@pytest.mark.slow
def test_an_image_of_a_model_of_few_timesteps_is_timed(tmp_path) -> None:
    model = save_ddpm(tmp_path / "m", DDPMScheduler(num_train_timesteps=10))
    report = compile_quickly(
        model, tmp_path / "out", "bench", reference_loop=None, distill={"quality_every": 0}
    )
    (loop,) = report.pipeline
    assert loop.details["steps"] == 10
    assert any("10 instead of 50" in note for note in report.notes)
