"""The loops of a run: from a recipe's texts to what each side is sampled with."""

from __future__ import annotations

import pytest
import yaml
from support.pipelines import save_ddpm
from support.runs import compile_quickly, refusal

from diffc.data.loops import run_loops
from diffc.errors import RequestError
from diffc.recipe import Recipe, resolve
from diffc.recipe.older import without_older
from diffc_runtime.loop import Loop

DDPM = {"_class_name": "DDPMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def recipe(**options) -> Recipe:
    return resolve(family="", flags=options)


@pytest.mark.parametrize(
    ("options", "config", "served", "reference"),
    [
        ({}, DDPM, "ddim:50:1", "ddim:50:1"),
        ({}, FLOW, "flow-euler:50:1", "flow-euler:50:1"),
        ({"loops": ["dpm++:8", "own"]}, DDPM, "dpm++:8:1", "ddim:50:1"),
        ({"loops": "dpm++:8, ddim:4"}, DDPM, "dpm++:8:1", "ddim:50:1"),
        ({"loops": ["own"]}, DDPM, "ddpm:50:1", "ddim:50:1"),
        ({"reference_loop": "euler:30"}, DDPM, "euler:30:1", "euler:30:1"),
        ({"reference_loop": "deterministic:20"}, FLOW, "flow-euler:20:1", "flow-euler:20:1"),
        ({"loops": ["DDIM:4@Trailing"]}, DDPM, "ddim:4:1@trailing", "ddim:50:1"),
    ],
)
def test_what_a_recipe_leaves_open_is_settled(options, config, served, reference) -> None:
    loops = run_loops(recipe(**options), config)
    assert str(loops.first) == str(loops.of("compressed")) == served
    assert str(loops.reference) == str(loops.of("dense")) == reference


def test_guidance_is_the_loops_own_or_the_models() -> None:
    loops = run_loops(recipe(loops=["ddim:8", "ddim:8:2"]), DDPM, guidance=7.5)
    assert [loop.guidance for loop in loops.loops] == [7.5, 2.0]
    assert loops.reference.guidance == 7.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loops": ["dmp++:8"]}, "did you mean dpm++"),
        ({"reference_loop": "dimm:8"}, "did you mean ddim"),
        ({"loops": ["ddim:0"]}, "from 1, not 0"),
        ({"loops": ["ddim:8:0.5"]}, "guidance must be"),
        ({"loops": [8]}, "is not a text"),
    ],
)
def test_what_is_no_loop_is_refused_as_the_recipe_is_read(options, said) -> None:
    with pytest.raises(RequestError) as caught:
        recipe(**options)
    assert said in f"{caught.value} {caught.value.hint or ''}"


def test_the_lock_has_a_loop_as_it_is_spelled() -> None:
    made = recipe(loops=["DPM++:08"], reference_loop="Euler:20:7.50")
    dumped = yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json")))
    assert dumped["loops"] == ["dpm++:8"] and dumped["reference_loop"] == "euler:20:7.5"
    assert resolve(family="", base=dumped) == made


@pytest.mark.parametrize(
    ("older", "reference", "note"),
    [
        ({"quality": {"steps": 50}}, None, None),  # what an older lock has where nobody set it
        ({"quality": {"steps": 20}}, "deterministic:20", "quality.steps is read as"),
        ({"quality": {"steps": 20}, "reference_loop": "ddim:9"}, "ddim:9", None),
        ({"measure": {"loop_steps": 20}, "check": {"loop_steps": 10}}, None, None),
        ({"measure": {"loop_steps": 4}}, None, "measure.loop_steps has no effect"),
        ({"check": {"loop_steps": 4}}, None, "check.loop_steps has no effect"),
    ],
)
def test_options_of_an_older_diffc_are_read(older, reference, note) -> None:
    made = recipe(**older)
    assert made.reference_loop == reference and made.loops == ()
    assert [note in said for said in made.older_notes] == ([True] if note else [])
    assert "steps" not in made.model_dump()["quality"]
    assert "older" not in str(made.model_dump())


def test_an_older_check_without_a_loop_stays_without() -> None:
    assert recipe(check={"loop_steps": 0}).check.time_loop is False
    assert recipe().check.time_loop is True


def test_what_was_given_is_left_alone() -> None:
    given = {"quality": {"steps": 20, "images": 3}}
    without_older(given)
    assert given == {"quality": {"steps": 20, "images": 3}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loops": ["flow-euler:4"]}, "--loop flow-euler:4: 'flow-euler' needs a flow-matching"),
        ({"loops": ["ddim:1001"]}, "--loop ddim:1001: 1001 steps are more than the model's 1000"),
        ({"reference_loop": "ddim:1001"}, "--reference-loop ddim:1001: 1001 steps"),
        ({"loops": ["ddim:4:7.5"]}, "--loop ddim:4:7.5: guidance needs null conditions"),
        ({"data": {"guidance": 4}}, "--guidance 4: guidance needs null conditions"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_it_is_loaded(
    tiny_model, tmp_path, monkeypatch, options, said
) -> None:
    monkeypatch.setattr("diffc.stages.preflight.model_checks", lambda *_: 1 / 0)
    assert said in str(refusal(tiny_model, tmp_path / "out", **options))


def test_a_flow_refuses_the_samplers_of_other_processes(tmp_path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = save_ddpm(tmp_path / "m", FlowMatchEulerDiscreteScheduler())
    error = refusal(model, tmp_path / "out", loops=["ddpm:4"], reference_loop=None)
    assert "--loop ddpm:4: 'ddpm' does not fit a flow-matching model" in str(error)


@pytest.mark.slow
def test_judged_and_timed_images_are_of_the_same_two_loops(tiny_model, tmp_path) -> None:
    """Another loop on each side, up to the bench; the report and the bundle have both."""
    out = tmp_path / "out"
    report = compile_quickly(
        tiny_model, out, "bench", loops=["heun:3@trailing"], reference_loop="ddim:6",
        distill={"steps": 0},
    )  # fmt: skip
    figure, (image,) = report.quality["ssim"], report.pipeline
    assert (figure["loop"], figure["reference_loop"]) == ("heun:3@trailing", "ddim:6")
    assert (image.details["sampler"], image.details["steps"]) == ("heun", 3)
    assert image.details["reference"] == {"sampler": "ddim", "steps": 6, "guidance": 1.0}

    from diffc.bundle.contents import find_contents

    served = find_contents(out, "ort-cpu", "compressed").served_settings()
    assert (served["sampler"], served["defaults"]) == ("heun", {"steps": 3, "guidance": 1.0})
    assert served["scheduler"]["timestep_spacing"] == "trailing"
    dense = find_contents(out, "ort-cpu", "dense").served_settings()
    assert (dense["sampler"], dense["defaults"]["steps"]) == ("ddim", 6)
    assert Loop.parse(figure["loop"]).steps == 3
