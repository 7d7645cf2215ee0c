"""The stages of a student of loops: what they leave in OUT, and who else can sample it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from support.runs import compile_quickly, refusal

import diffc
from diffc.data.loops import run_loops
from diffc.data.sampling import sample, torch_loop
from diffc.data.synthetic import Conditioning, guided_call
from diffc.follows import check_model
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.source import find_source
from diffc.output import locked_recipe
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
LOOP = {"steps": 4, "batch": 4, "warmup": 1, "trajectories": 6, "teacher_steps": 4}
FOR_LOOPS = {"distill": {"aim": "loop", "loop": LOOP}, "loops": ["ddim:1", "ddim:2"]}


pytestmark = pytest.mark.usefixtures("cache_of_student")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def student(tiny_model, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("student")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFC_CACHE", str(cache))
        return out, compile_quickly(tiny_model, out, "export", **FOR_LOOPS)


@pytest.fixture
def cache_of_student(cache, monkeypatch):
    """The cache that ``student`` filled: a test makes only what the student's run lacks."""
    monkeypatch.setenv("DIFFC_CACHE", str(cache))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_diffusers_ddim_makes_the_image_of_the_runtime(student, steps: int) -> None:
    out, _ = student
    pipe = diffc.load(out / "model")
    assert type(pipe.scheduler) is DDIMScheduler
    noise = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = DDIMScheduler.from_pretrained(out / "model" / "scheduler")
    theirs.set_timesteps(steps)
    x = noise
    with torch.no_grad():
        for t in theirs.timesteps:
            x = theirs.step(pipe.unet(x, t).sample, t, x).prev_sample
    source = find_source(out / "model")
    ours = denoiser_of(pipe.unet, family(source.class_name), source.scheduler)
    loop = run_loops(locked_recipe(out), source.scheduler).loops[steps - 1]
    assert loop.steps == steps and theirs.timesteps[0] == 999
    call = guided_call(ours, Conditioning(), torch.float32)
    made = sample(call, torch_loop(source.scheduler, loop), noise.clone())
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_pipeline_of_the_model_samples_it(student) -> None:
    out, _ = student
    images = diffc.load(out / "model")(num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 16, 16, 1) and np.isfinite(images).all()


@pytest.mark.slow
def test_the_export_is_of_the_students_prediction(student) -> None:
    out, _ = student
    ours, theirs = (
        json.loads((out / "onnx" / side / "model.json").read_text())
        for side in ("compressed", "dense")
    )
    assert (ours["prediction"], theirs["prediction"]) == ("v_prediction", "epsilon")
    assert ours["scheduler"]["prediction_type"] == "v_prediction"
    assert ours["scheduler"]["timestep_spacing"] == "trailing"
    assert ours["scheduler"]["clip_sample"] is False
    reference = load_file(out / "onnx/compressed/reference.safetensors")
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    now, then = (
        torch.stack([bar[t].sqrt(), (1 - bar[t]).sqrt()])
        for t in reference["trajectory.timesteps"][:2].long()
    )
    # x' = a' x_0 + s' eps of x_0 = a x - s v and eps = s x + a v
    of_v = [float(now @ then), float(now[0] * then[1] - then[0] * now[1])]
    assert reference["trajectory.coefficients"][0].tolist() == pytest.approx(of_v, rel=1e-4)


@pytest.mark.slow
def test_the_report_names_the_loops(student) -> None:
    out, report = student
    assert report.loop_distillation["steps"] == 4
    assert report.loop_distillation["loops"] == ["ddim:1:1@trailing", "ddim:2:1@trailing"]
    assert "ddim:1:1@trailing" in to_markdown(report)
    assert "the loss of the loop" in to_html(report, out)
    said = json.loads((out / "model" / "pruning.json").read_text())
    assert said["loops"] == ["ddim:1:1@trailing", "ddim:2:1@trailing"]
    check_model(out)


@pytest.mark.slow
def test_another_ratio_takes_the_same_trajectories(tiny_model, tmp_path) -> None:
    compile_quickly(tiny_model, tmp_path / "a", **FOR_LOOPS)
    report = compile_quickly(tiny_model, tmp_path / "b", ratio=0.2, **FOR_LOOPS)
    cached = {stage.name: stage.cached for stage in report.stages}
    assert cached["trajectories"] and not cached["distill-loop"]


@pytest.mark.slow
def test_samples_of_the_same_way_are_trajectories(tiny_model, tmp_path) -> None:
    """8 samples of 2 steps: of a loop of two they visit every timestep, of one of three none."""
    work = {"distill": {"aim": "loop", "loop": {**LOOP, "trajectories": 10, "teacher_steps": 2}}}
    compile_quickly(tiny_model, tmp_path, loops=["ddim:2"], **work)
    record = json.loads((tmp_path / ".diffc/trajectories.json").read_text())["result"]
    assert (record["drawn"], record["calls"]) == (8, 2 * 2)
    report = compile_quickly(tiny_model, tmp_path, loops=["ddim:3"], **work)
    cached = {stage.name: stage.cached for stage in report.stages}
    assert cached["data"] and not cached["trajectories"]
    record = json.loads((tmp_path / ".diffc/trajectories.json").read_text())["result"]
    assert record["drawn"] == 0 and record["calls"] == 10 * record["steps"]
    compile_quickly(tiny_model, tmp_path)
    assert not (tmp_path / ".diffc/drawn-states.safetensors").exists()


@pytest.mark.slow
def test_the_dense_model_itself_learns_a_loop(tiny_model, tmp_path) -> None:
    """Ratio 0 cuts, repairs and distils nothing; the loop's student starts from the dense model."""
    report = compile_quickly(tiny_model, tmp_path, ratio=0.0, **FOR_LOOPS)
    assert report.compressed.macs == report.model.macs
    assert report.distillation["steps"] == 0 and not report.repair["is_used"]
    assert report.loop_distillation["steps"] == 4
    dense = load_file(tiny_model / WEIGHTS)
    before, after = (
        load_file(tmp_path / place / WEIGHTS) for place in (".diffc/distilled", "model")
    )
    assert all(torch.equal(before[name], value) for name, value in dense.items())
    assert not all(torch.equal(after[name], value) for name, value in dense.items())
    check_model(tmp_path)


@pytest.mark.slow
def test_one_folder_changes_its_aim_and_back(tiny_model, tmp_path) -> None:
    compile_quickly(tiny_model, tmp_path)
    plain = (tmp_path / "model" / WEIGHTS).read_bytes()
    report = compile_quickly(tiny_model, tmp_path, **FOR_LOOPS)
    cached = {stage.name: stage.cached for stage in report.stages}
    assert cached["distill"]
    assert (tmp_path / "model" / WEIGHTS).read_bytes() != plain
    assert (tmp_path / ".diffc/distilled" / WEIGHTS).read_bytes() == plain
    check_model(tmp_path)
    report = compile_quickly(tiny_model, tmp_path)
    assert all(stage.cached for stage in report.stages) and report.loop_distillation is None
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == plain
    assert not list((tmp_path / ".diffc").glob("*trajectories*"))
    check_model(tmp_path)


@pytest.mark.slow
def test_a_model_changed_by_hand_is_noticed(student, tiny_model, tmp_path) -> None:
    compile_quickly(tiny_model, tmp_path, **FOR_LOOPS)
    path = tmp_path / "model/scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace("trailing", "leading"))
    with pytest.raises(diffc.DiffcError, match="was changed since diffc wrote it"):
        check_model(tmp_path)


@pytest.mark.parametrize(
    ("loops", "words"),
    [
        ([], "needs one"),
        (["dpm++:8"], "one output of the model alone"),
        (["ddim"], "without a number of steps"),
        (["ddim:2", "ddim:2@leading"], "one spacing"),
    ],
)
def test_what_no_student_can_learn_is_refused(tiny_model, tmp_path, loops, words) -> None:
    error = refusal(tiny_model, tmp_path, distill={"aim": "loop"}, loops=loops)
    assert words in str(error)
