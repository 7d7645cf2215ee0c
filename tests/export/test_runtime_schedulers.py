"""The runtime's samplers against diffusers' own, over whole trajectories and many settings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffc.data.sampling import deterministic_loop
from diffc.models.noise_levels import flow_levels
from diffc_runtime import schedulers
from diffc_runtime.errors import BadRequest
from diffc_runtime.schedulers import scheduler

ORACLES = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "flow-euler": FlowMatchEulerDiscreteScheduler,
}
BETAS = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(2e-4, 0.015, 1000).tolist()},
]
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def model(x: np.ndarray, t: float) -> np.ndarray:
    """A smooth stand-in for a denoiser: bounded, and different for every pixel and timestep."""
    ramp = np.linspace(-1, 1, x[0].size, dtype=np.float32).reshape(x[0].shape)
    return (0.6 * np.tanh(x * 0.5) + 0.3 * np.sin(ramp * 3 + np.float32(t / 200))).astype(
        np.float32
    )


def oracle_step(name, oracle, out, t, x, noise):
    """One step of diffusers' scheduler, fed the same noise as ours."""
    out, x = torch.from_numpy(out), torch.from_numpy(x)
    if name in ("ddpm", "flow-euler"):
        with pytest.MonkeyPatch.context() as patch:
            module = __import__(type(oracle).__module__, fromlist=["randn_tensor"])
            patch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noise.copy()))
            return oracle.step(out, t, x, return_dict=False)[0].numpy()
    return oracle.step(out, t, x, return_dict=False)[0].numpy()


def begins_a_timestep_apart(name: str, config: dict, steps: int) -> bool:
    """Whether the first timestep alone is another one, and by 1."""
    oracle = ORACLES[name].from_config(config)
    oracle.set_timesteps(steps)
    apart = np.asarray(scheduler(name, config, steps).timesteps) - oracle.timesteps.numpy()
    return abs(apart[0]) == 1 and np.allclose(apart[1:], 0, atol=1e-5)


def float32_resolution(name: str, oracle, t: torch.Tensor, largest: float, after) -> float:
    """Two units in the last place of the largest state passed through, or of the one after step t.

    Float32 holds no more of a difference from it. Where the step computes a clean sample from
    predicted noise, it divides such a difference by sqrt(alpha_bar).
    """
    if oracle.config.get("prediction_type") == "epsilon" and name != "euler":
        alpha_bar = oracle.alphas_cumprod[int(t)].item()
        return float(2 * np.spacing(np.float32(largest)) / np.sqrt(alpha_bar))
    return float(2 * np.spacing(np.float32(max(largest, np.abs(after).max()))))


def distance(
    name: str, config: dict, steps: int, exact: bool = False, resolution: bool = False
) -> float:
    """The largest difference over a trajectory, over the size of the state where it exceeds 1.

    exact: run diffusers' code in float64 from its float32 alpha_bar.
    resolution: leave out what float32 cannot say (see float32_resolution).
    """
    oracle = ORACLES[name].from_config(config)
    oracle.set_timesteps(steps)
    if hasattr(oracle, "set_begin_index"):
        # otherwise it looks its first step up by the timestep, which Karras' may visit twice
        oracle.set_begin_index(0)
    if exact:
        oracle.alphas_cumprod = oracle.alphas_cumprod.double()
    ours = scheduler(name, config, steps)
    # of a timestep near 0 float32 says no more: both interpolate between logarithms of sigmas
    np.testing.assert_allclose(ours.timesteps, oracle.timesteps.numpy(), rtol=2e-6, atol=1e-5)
    rng = np.random.default_rng(7)
    sigma = getattr(oracle, "init_noise_sigma", 1.0)
    assert ours.init_noise_sigma == pytest.approx(float(sigma), rel=1e-6)
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32) * np.float32(sigma)
    theirs, worst, largest = x.astype(np.float64 if exact else np.float32), 0.0, np.abs(x).max()
    for i, t in enumerate(oracle.timesteps):
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        scaled = theirs
        if hasattr(oracle, "scale_model_input"):
            scaled = oracle.scale_model_input(torch.from_numpy(theirs), t).numpy()
        mine = model(ours.scale_input(x, i), ours.timesteps[i])
        theirs = oracle_step(name, oracle, model(scaled, float(t)), t, theirs, noise)
        x = ours.step(mine, i, x, noise=noise)
        error = np.abs(x - theirs).max()
        if resolution:
            error = max(0.0, error - float32_resolution(name, oracle, t, largest, theirs))
        largest = max(largest, np.abs(theirs).max())
        worst = max(worst, error / max(1.0, np.abs(theirs).max()))
    return float(worst)


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "dpm++"])
def test_follows_diffusers(name, spacing, steps):
    for betas, prediction in itertools.product(BETAS, PREDICTIONS):
        config = {**betas, "prediction_type": prediction, "timestep_spacing": spacing}
        assert distance(name, config, steps) < 1e-5, config


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "dpm++"])
@pytest.mark.parametrize("betas", BETAS[:3])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_follows_diffusers_over_a_thousand_steps(name, betas, prediction):
    steps = 999 if name == "dpm++" else 1000
    config = {**betas, "prediction_type": prediction, "timestep_spacing": "leading"}
    # a thousand rotations by v add up the rounding of torch's square roots: in float32 diffusers
    # is itself up to 1.7e-5 away from its own result in float64, and ours 7e-6
    exact = name == "ddim" and prediction == "v_prediction"
    assert distance(name, config, steps, exact) < 1e-5


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("ddpm", {"variance_type": "fixed_large"}),
        ("ddpm", {"variance_type": "fixed_small_log"}),
        ("ddpm", {"clip_sample": False}),
        ("ddpm", {"clip_sample_range": 0.4}),
        ("ddpm", {"beta_schedule": "sigmoid", "beta_start": 1e-4}),
        ("ddpm", {"beta_schedule": "laplace"}),
        ("ddpm", {"thresholding": True, "sample_max_value": 1.5}),
        ("ddim", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        ("ddim", {"clip_sample_range": 0.4}),
        ("ddim", {"thresholding": True, "sample_max_value": 1.5}),
        (
            "ddim",
            {
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": "trailing",
            },
        ),
        ("euler", {"use_karras_sigmas": True}),
        ("euler", {"steps_offset": 1, "timestep_spacing": "leading"}),
        ("euler", {"final_sigmas_type": "sigma_min"}),
        ("dpm++", {"use_karras_sigmas": True}),
        ("dpm++", {"solver_order": 1}),
        ("dpm++", {"solver_type": "heun"}),
        ("dpm++", {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
        ("dpm++", {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
        ("dpm++", {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}),
        ("dpm++", {"thresholding": True, "sample_max_value": 1.5}),
        (
            "dpm++",
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
        ),
    ],
)
def test_follows_diffusers_in_other_settings(name, extra):
    for steps in (3, 13, 25):
        assert distance(name, extra, steps) < 1e-5, (steps, extra)


@pytest.mark.parametrize("steps", [1, 2, 28, 1000])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"shift": 3.0},
        {"shift": 3.0, "shift_terminal": 0.1},
        {"stochastic_sampling": True},
        {"shift": 3.0, "use_karras_sigmas": True},
    ],
)
def test_flow_follows_diffusers(extra, steps):
    if steps == 1 and "shift_terminal" in extra:
        pytest.skip("diffusers divides by zero here")
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **extra}
    assert distance("flow-euler", config, steps) < 1e-5


FLUX = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize(
    ("extra", "shape"),
    [
        (FLUX, (4096, 64)),
        (FLUX, (1024, 64)),
        (FLUX | {"shift_terminal": 0.1, "time_shift_type": "linear"}, (64, 4)),
        ({"shift": 1.0}, (4096, 64)),
        ({"shift": 3.0}, (16, 64, 64)),
        (FLUX, (16, 128, 96)),
    ],
)
def test_flow_visits_the_levels_of_the_models_own_pipeline(extra, shape, steps):
    """Flux (tokens, channels) and SD3 (C, H, W), as their pipelines call set_timesteps."""
    if steps == 1 and "shift_terminal" in extra:
        pytest.skip("diffusers divides by zero here")
    oracle = FlowMatchEulerDiscreteScheduler(**extra)
    tokens = shape[0] if len(shape) == 2 else shape[1] // 2 * (shape[2] // 2)
    config = oracle.config
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift,
        config.max_shift,
    )  # fmt: skip
    sigmas = np.linspace(1.0, 1 / steps, steps) if len(shape) == 2 else None
    oracle.set_timesteps(steps, sigmas=sigmas, mu=mu)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **extra}
    ours = scheduler("flow-euler", {**config, **flow_levels(config, shape)}, steps)
    # of a timestep near 0 float32 says no more: both interpolate between logarithms of sigmas
    np.testing.assert_allclose(ours.timesteps, oracle.timesteps.numpy(), rtol=2e-6, atol=1e-5)
    made = deterministic_loop(config, steps).trajectory(shape)
    np.testing.assert_array_equal(made.timesteps, ours.timesteps)


def test_euler_from_zero_snr():
    """Step by step: from sigma 4096 down, float32 itself holds no 1e-5 over a whole trajectory."""
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    oracle, ours = EulerDiscreteScheduler(**config), scheduler("euler", config, 10)
    oracle.set_timesteps(10)
    rng = np.random.default_rng(1)
    for i, t in enumerate(oracle.timesteps):
        x = rng.standard_normal((1, 3, 4, 4), dtype=np.float32) * oracle.sigmas[i].numpy()
        scaled = oracle.scale_model_input(torch.from_numpy(x), t).numpy()
        np.testing.assert_allclose(ours.scale_input(x, i), scaled, rtol=1e-6)
        theirs = oracle_step("euler", oracle, model(scaled, float(t)), t, x.copy(), None)
        size = max(1.0, np.abs(x).max())
        mine = ours.step(model(scaled, float(t)), i, x)
        assert np.abs(mine - theirs).max() / size < 1e-6


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(["ddpm", "ddim", "euler", "dpm++"]),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    start=st.floats(5e-5, 1e-3),
    end=st.floats(5e-3, 0.03),
    total=st.integers(50, 1200),
    spacing=st.sampled_from(SPACINGS),
    prediction=st.sampled_from(PREDICTIONS),
    clip=st.booleans(),
    karras=st.booleans(),
    steps=st.integers(1, 40),
)
@example("euler", "scaled_linear", 85e-5, 0.012, 1000, "leading", "epsilon", True, True, 1)
@example("euler", "scaled_linear", 85e-5, 0.012, 1000, "leading", "epsilon", True, True, 20)
@example("euler", "scaled_linear", 85e-5, 0.012, 1000, "trailing", "epsilon", True, True, 20)
@example("dpm++", "scaled_linear", 85e-5, 0.012, 1000, "leading", "epsilon", True, True, 20)
@example("ddpm", "squaredcos_cap_v2", 1e-3, 0.015625, 181, "trailing", "epsilon", True, False, 1)
def test_follows_diffusers_anywhere(
    name, schedule, start, end, total, spacing, prediction, clip, karras, steps
):
    config = {
        "num_train_timesteps": total,
        "beta_schedule": schedule,
        "beta_start": start,
        "beta_end": end,
        "timestep_spacing": spacing,
        "prediction_type": prediction,
        "clip_sample": clip,
        "use_karras_sigmas": karras,
    }
    if len(np.arange(total, 0, -total / steps)) != steps:
        return  # diffusers visits timestep -1 here
    if karras and schedule == "squaredcos_cap_v2" and begins_a_timestep_apart(name, config, steps):
        return  # timesteps are truncated there: the last bit of the largest sigma decides
    # Euler's state begins at the largest sigma, in the thousands for cosine schedules
    assert distance(name, config, steps, resolution=True) < 1e-5


def test_trailing_never_visits_timestep_minus_one():
    """diffusers' trailing spacing gives 62 of the step counts up to 1000 one timestep too many."""
    for steps in range(1, 1001):
        times = scheduler("ddim", {"timestep_spacing": "trailing"}, steps).timesteps
        assert len(times) == steps
        assert times.min() >= 0


@pytest.mark.parametrize("name", schedulers.NAMES)
def test_step_works_in_place_without_new_arrays(name):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"} if "flow" in name else {}
    sampler = scheduler(name, config, 10)
    x, out = np.ones((1, 3, 8, 8), np.float32), np.ones((1, 3, 8, 8), np.float32)
    for i in range(len(sampler)):
        assert sampler.step(out, i, x, noise=np.zeros_like(x)) is x
    assert np.all(out == 1)


@pytest.mark.parametrize("steps", [0, -1, 10_000, 1.5, float("nan"), "50", None, True])
def test_steps_out_of_range(steps):
    with pytest.raises(BadRequest, match="whole number from 1 to 1000"):
        scheduler("ddim", {}, steps)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("plms", {}, "unknown scheduler 'plms' .known: ddpm, ddim, euler, euler-ancestral, heun"),
        ("ddim", {"beta_schedule": "cubic"}, "unknown beta_schedule"),
        ("ddim", {"timestep_spacing": "random"}, "unknown timestep_spacing"),
        ("ddim", {"prediction_type": "score"}, "unknown prediction_type"),
        ("ddpm", {"prediction_type": "flow_prediction"}, "unknown prediction_type"),
        ("euler", {"prediction_type": "score"}, "has no prediction_type"),
        ("ddpm", {"variance_type": "learned_range"}, "has no variance_type"),
        ("dpm++", {"solver_order": 3}, "has no solver_order 3"),
        ("ddim", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow-matching"),
        ("flow-euler", {}, "flow-matching"),
        (
            "flow-euler",
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "put mu in its config",
        ),
    ],
)
def test_refuses_what_it_does_not_have(name, config, says):
    with pytest.raises(BadRequest, match=says):
        scheduler(name, config, 10)


def test_refuses_an_offset_past_the_last_timestep():
    with pytest.raises(BadRequest, match="steps_offset"):
        scheduler("ddim", {"steps_offset": 1, "timestep_spacing": "leading"}, 1000)


def test_noise_is_asked_for():
    with pytest.raises(BadRequest, match="adds noise"):
        scheduler("ddpm", {}, 10).step(np.ones((1, 2)), 0, np.ones((1, 2)))


def test_defaults_of_another_class_are_left_behind():
    """diffusers' ``_use_default_values``: leading was DDPM's default, not this model's choice."""
    config = dict(DDPMScheduler().config)
    assert "_use_default_values" in config
    theirs = EulerDiscreteScheduler.from_config(config)
    theirs.set_timesteps(7)
    ours = scheduler("euler", config, 7)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), rtol=1e-6)
    assert ours.timesteps[0] == 999


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        ("DDPMScheduler", "ddpm"),
        ("DPMSolverMultistepScheduler", "dpm++"),
        ("FlowMatchHeunDiscreteScheduler", "flow-euler"),
        ("PNDMScheduler", "ddim"),
    ],
)
def test_own_name(cls, name):
    assert schedulers.own_name({"_class_name": cls}) == name


FLOW_OVER_BETAS = {
    "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "because"),
    [
        ({"_class_name": "DDIMScheduler"}, "ddim", None),
        ({}, "ddim", None),
        ({"_class_name": "PNDMScheduler"}, "ddim", "the runtime has no PNDMScheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "ddim", "order 3"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "ddim",
            "sde-dpmsolver",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "ddim", "learned"),
        ({"_class_name": "UniPCMultistepScheduler", **FLOW_OVER_BETAS}, "dpm++", "no UniPC"),
    ],
)
def test_another_sampler_stands_in(config, name, because):
    found, reason = schedulers.substitute(config)
    assert found == schedulers.own_name(config) == name
    assert (reason is None) if because is None else because in reason
    assert len(scheduler(found, config, 20)) == 20


def test_an_engine_of_whole_timesteps_gets_a_sampler_of_whole_timesteps():
    config = {"_class_name": "EulerDiscreteScheduler"}
    assert schedulers.substitute(config) == ("euler", None)
    found, reason = schedulers.substitute(config, whole=True)
    assert found == "ddim" and "fractions" in reason


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "LCMScheduler"},
        {"_class_name": "ScoreSdeVeScheduler"},
        {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
        {"_class_name": "DDPMScheduler", "beta_schedule": "cubic"},
    ],
)
def test_no_sampler_stands_in_for_another_process(config):
    with pytest.raises(BadRequest, match=r"has no|unknown beta_schedule"):
        schedulers.substitute(config)
