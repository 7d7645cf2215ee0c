"""The scheduler's own class decides the noise; a class that diffc does not know is refused."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.diffusers_loops import diffusers_scheduler
from support.pipelines import edit_json, save_ddpm, save_sd
from support.runs import refusal

from diffc.data.sampling import TorchLoop, deterministic_loop, sample
from diffc.errors import InputError
from diffc.models.diffusion import process_from_scheduler, served_settings
from diffc.models.schedulers import CLIPPING, KNOWN, check_scheduler, is_flow
from diffc.models.schedulers import scheduler_settings as settings_of
from diffc.models.source import find_source
from diffc_runtime import schedulers as served
from diffc_runtime import schedules

READABLE = [name for name in KNOWN if name != "DPMSolverSDEScheduler"]  # needs torchsde
OVER_BETAS = [name for name in READABLE if "FlowMatch" not in name]


def written(scheduler) -> dict:
    """What ``save_pretrained`` writes of a scheduler."""
    return json.loads(scheduler.to_json_string())


def alpha_bar(loop: TorchLoop) -> torch.Tensor:
    """(T,) float32 of a loop's noise levels."""
    return torch.from_numpy(schedules.alpha_bar(loop.config))


def largest_clean(loop: TorchLoop) -> float:
    """The largest value of x_0 after one step from a state that gives 7 without any clipping."""
    sampler = loop.trajectory((1, 2, 2))
    bar = float(alpha_bar(loop)[int(sampler.timesteps[0])])
    x = np.full((1, 1, 2, 2), 7 * bar**0.5, np.float32)
    clean = {"epsilon": 0.0, "sample": 7.0, "v_prediction": 0.0}[loop.config["prediction_type"]]
    return float(np.abs(sampler.step(np.full_like(x, clean), 0, x)).max())


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.mark.parametrize("name", OVER_BETAS)
@pytest.mark.parametrize("whole", [True, False])
def test_ddim_has_the_betas_and_the_clipping_of_the_sources_class(name, whole) -> None:
    """From the file that diffusers writes, and from one that leaves every default out."""
    own = getattr(diffusers, name)()
    config = written(own) if whole else {"_class_name": name}
    made = deterministic_loop(config, 5)
    torch.testing.assert_close(alpha_bar(made), own.alphas_cumprod)
    assert made.config["prediction_type"] == own.config.prediction_type
    assert made.config["clip_sample"] == (name in CLIPPING)
    spacing = own.config.get("timestep_spacing", "linspace")
    assert made.info.spacing == made.config["timestep_spacing"] == spacing
    bar = process_from_scheduler(config).signal ** 2
    torch.testing.assert_close(bar.float(), own.alphas_cumprod, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("cls", "told", "clips"),
    [
        ("PNDMScheduler", {"clip_sample": True}, False),  # another class's key
        ("EulerDiscreteScheduler", {"clip_sample": True}, False),
        ("HeunDiscreteScheduler", {"clip_sample": True}, True),
        ("HeunDiscreteScheduler", {}, False),
        ("LCMScheduler", {}, False),
        ("TCDScheduler", {"clip_sample": True, "clip_sample_range": 2.0}, True),
        ("DDPMScheduler", {}, True),
        ("DDIMParallelScheduler", {"clip_sample": False}, False),
    ],
)
def test_clipping_is_what_the_class_does(cls, told, clips) -> None:
    config = {"_class_name": cls, **told}
    largest = largest_clean(deterministic_loop(config, 1))
    expected = diffusers_scheduler(config, 1)
    assert expected.config.clip_sample is clips
    assert largest == pytest.approx(told.get("clip_sample_range", 1.0) if clips else 7.0, rel=1e-3)
    assert served_settings(config)["clip_sample"] is clips


def test_latents_of_a_solver_are_not_cut_at_one(sd) -> None:
    for cls in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        config = written(getattr(diffusers, cls)(beta_schedule="scaled_linear"))
        made = deterministic_loop(config, 2)
        drawn = sample(lambda x, _t: -x, made, torch.randn(2, 4, 8, 8))
        assert drawn.abs().max() > 2


@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
def test_a_schedule_that_ddim_does_not_name_is_handed_over_as_its_betas(schedule) -> None:
    own = diffusers.DDPMScheduler(beta_schedule=schedule)
    made = deterministic_loop(written(own), 7)
    torch.testing.assert_close(alpha_bar(made), own.alphas_cumprod, atol=1e-5, rtol=1e-4)
    theirs = diffusers_scheduler(written(own), 7)
    assert made.trajectory((1, 2, 2)).timesteps.tolist() == theirs.timesteps.tolist()
    ours = served.scheduler("ddim", served_settings(written(own)), 7)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


def test_a_heun_solvers_exponential_schedule() -> None:
    own = diffusers.HeunDiscreteScheduler(beta_schedule="exp")
    made = deterministic_loop(written(own), 7)
    torch.testing.assert_close(alpha_bar(made), own.alphas_cumprod, atol=1e-5, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([*CLIPPING, "PNDMScheduler", "EulerAncestralDiscreteScheduler",
                          "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"]),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    start=st.floats(5e-5, 1e-3),
    total=st.integers(2, 300),
    steps=st.integers(1, 60),
    spacing=st.sampled_from(["leading", "trailing", "linspace", None]),
    offset=st.sampled_from([0, 1]),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    clip=st.sampled_from([True, False, None]),
    thresholding=st.booleans(),
    zero_snr=st.booleans(),
)  # fmt: skip
def test_the_served_loop_follows_the_one_that_made_the_samples(
    name, schedule, start, total, steps, spacing, offset, prediction, clip, thresholding, zero_snr
) -> None:
    """From one config: DDIM made for data and figures, and the runtime's from model.json.

    diffusers' own DDIM is the oracle of both.
    """
    config = {
        "_class_name": name, "beta_schedule": schedule, "beta_start": start,
        "num_train_timesteps": total, "timestep_spacing": spacing, "steps_offset": offset,
        "prediction_type": prediction, "clip_sample": clip, "thresholding": thresholding,
        "rescale_betas_zero_snr": zero_snr,
    }  # fmt: skip
    config = {key: value for key, value in config.items() if value is not None}
    check_scheduler(config)
    theirs = diffusers_scheduler(config, steps)
    made = deterministic_loop(config, steps)
    assert made.trajectory((1, 4, 4)).timesteps.tolist() == theirs.timesteps.tolist()
    ours = served.scheduler("ddim", served_settings(config), int(theirs.num_inference_steps))
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mine = x.numpy().copy()
    for i, t in enumerate(theirs.timesteps):
        out = 0.5 * torch.tanh(x)
        x = theirs.step(out, t, x, return_dict=False)[0]
        mine = ours.step((0.5 * np.tanh(mine)).astype(np.float32), i, mine)
        assert torch.isfinite(x).all()
        np.testing.assert_allclose(mine, x.numpy(), atol=2e-3 * max(1.0, float(x.abs().max())))
        x = torch.from_numpy(mine.copy())  # one step at a time: early steps of few are steep


@pytest.mark.parametrize("last", ["zero", "sigma_min"])
def test_sampling_ends_where_the_solver_ends(last) -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": last}
    made = deterministic_loop(config, 4)
    kept = 1.0 if last == "zero" else float(alpha_bar(made)[0])
    x, noise = np.zeros((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)
    sampler = made.trajectory((1, 2, 2))
    end = sampler.step(noise, len(sampler) - 1, x)
    bar = float(alpha_bar(made)[int(sampler.timesteps[-1])])
    clean = -((1 - bar) ** 0.5) / bar**0.5
    np.testing.assert_allclose(end, clean * kept**0.5 + (1 - kept) ** 0.5, atol=1e-5)
    assert deterministic_loop({"_class_name": "PNDMScheduler"}, 4).config["set_alpha_to_one"] is (
        False
    )


def test_a_flow_is_sampled_without_drawing_noise() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}
    made, x = deterministic_loop(config, 3), torch.randn(1, 4, 8, 8)
    first, again = (sample(lambda x, _t: x, made, x) for _ in range(2))
    assert torch.equal(first, again)


NOT_KNOWN = [
    ("MyNoiseScheduler", {}),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("ScoreSdeVeScheduler", {}),
    ("KarrasVeScheduler", {}),
    ("CMStochasticIterativeScheduler", {}),
    ("VQDiffusionScheduler", {}),
    ("SCMScheduler", {"prediction_type": "trigflow"}),
    ("UnCLIPScheduler", {}),
    ("CogVideoXDDIMScheduler", {}),
    ("CosineDPMSolverMultistepScheduler", {}),
    ("IPNDMScheduler", {}),
    ("DDIMInverseScheduler", {}),
    ("ddimscheduler", {}),
]


@pytest.mark.parametrize(("name", "config"), NOT_KNOWN)
def test_an_unknown_class_is_refused_by_name(name, config) -> None:
    with pytest.raises(InputError, match=name):
        check_scheduler({"_class_name": name, **config})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prediction_type": "trigflow"}, "predicts 'trigflow'"),
        ({"prediction_type": "score"}, "predicts 'score'"),
        ({"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
        ({"beta_schedule": "cosine_typo"}, "beta_schedule 'cosine_typo'"),
        ({"beta_start": "x"}, "beta_start is 'x'"),
        ({"beta_end": 1.5}, "1.5, are not between"),
        ({"beta_end": float("nan")}, "beta_end is nan"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps is '1000'"),
        ({"timestep_spacing": "random"}, "timestep_spacing 'random'"),
        ({"steps_offset": 1000}, "steps_offset 1000"),
        ({"trained_betas": [0.1, 0.2]}, "hold 2 values, and num_train_timesteps is 1000"),
        ({"trained_betas": [0.1, 1.2], "num_train_timesteps": 2}, "between 0 and 1"),
        ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, "that are no numbers"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": "MyNoiseScheduler"}, "MyNoiseScheduler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "predicts 'epsilon' along a flow",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas",
        ),
    ],
)
def test_it_is_refused_before_the_first_stage(tmp_path, changes, says) -> None:
    model = save_ddpm(tmp_path / "m")
    edit_json(model / "scheduler" / "scheduler_config.json", **changes)
    error = refusal(model, tmp_path / "out", reference_loop="ddim:1")
    assert says in str(error), error
    assert not (tmp_path / "out").exists()


def test_a_distilled_flow_on_a_sphere_is_refused_by_name(tmp_path) -> None:
    model = save_ddpm(tmp_path / "m")
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "SCMScheduler", "prediction_type": "trigflow"}))
    error = refusal(model, tmp_path / "out")
    assert "SCMScheduler" in str(error) and "trigflow" in str(error.hint)


def test_a_model_without_a_scheduler_is_refused(tmp_path) -> None:
    model = save_ddpm(tmp_path / "m")
    (model / "scheduler" / "scheduler_config.json").unlink()
    assert "no scheduler/scheduler_config.json" in str(refusal(model, tmp_path / "out"))


def test_the_index_names_a_class_that_the_config_leaves_out(tmp_path) -> None:
    model = save_ddpm(tmp_path / "m", diffusers.DDIMScheduler())
    edit_json(model / "scheduler" / "scheduler_config.json", _class_name=None)
    assert find_source(str(model)).scheduler["_class_name"] == "DDIMScheduler"


@pytest.mark.parametrize(
    ("config", "offset"),
    [
        ({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}, 1),
        ({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}, 1),
    ],
)
def test_an_old_config_is_corrected_as_stable_diffusions_pipeline_does(
    sd, tmp_path, config, offset
) -> None:
    import shutil

    from diffusers import StableDiffusionPipeline

    model = tmp_path / "sd"
    shutil.copytree(sd, model)
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    edit_json(model / "model_index.json", scheduler=["diffusers", config["_class_name"]])
    theirs = StableDiffusionPipeline.from_pretrained(model).scheduler.config
    ours = deterministic_loop(find_source(str(model)).scheduler, 4).config
    assert ours["steps_offset"] == theirs.steps_offset == offset
    assert ours["clip_sample"] is theirs.get("clip_sample", False) is False


def test_the_runtime_serves_no_class_that_diffc_does_not_know() -> None:
    listed = {*served._CLASSES, *served._SUBSTITUTED} - {""}
    assert listed <= set(KNOWN)


def test_a_class_that_cannot_be_imported_is_read_from_a_whole_config() -> None:
    """diffusers has DPMSolverSDEScheduler only beside torchsde."""
    name = "DPMSolverSDEScheduler"
    whole = {**written(diffusers.KDPM2DiscreteScheduler()), "_class_name": name}
    made = deterministic_loop(whole, 3)
    assert made.config["beta_end"] == 0.012 and made.config["clip_sample"] is False
    if not hasattr(diffusers.schedulers, "scheduling_dpmsolver_sde"):
        with pytest.raises(InputError, match=f"beta_start, beta_end, beta_schedule.*{name}"):
            deterministic_loop({"_class_name": name}, 3)


@pytest.mark.parametrize("name", READABLE)
def test_every_known_class_is_read_sampled_and_served_or_refused_in_a_line(name) -> None:
    config = written(getattr(diffusers, name)())
    check_scheduler(config)
    assert is_flow(settings_of(config)) == ("FlowMatch" in name)
    made = deterministic_loop(config, 4)
    assert torch.isfinite(sample(lambda x, _t: 0.1 * x, made, torch.randn(1, 3, 8, 8))).all()
    json.dumps(served_settings(config), allow_nan=False)
    if name not in ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"):
        assert served.substitute(served_settings(config))[0] in served.NAMES


def test_a_flow_solvers_whole_config_is_served() -> None:
    """UniPC's own solver_type is none of DPM-Solver's, which stands in for it."""
    config = written(
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        )
    )
    assert served.substitute(config)[0] == "dpm++"
    assert served.substitute(served_settings(config))[0] == "dpm++"
