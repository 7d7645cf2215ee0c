"""Trajectories that begin at a later step, for image-to-image: diffusers' schedulers as oracle."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
)
from hypothesis import given
from hypothesis import strategies as st
from support.diffusers_loops import ORACLES

from diffc_runtime.denoising import denoise
from diffc_runtime.schedulers import NAMES, first_step, scheduler

SCHEDULES = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PLAIN = {**SCHEDULES, "num_train_timesteps": 1000, "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
FLOW_DPM = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
SHAPE = (2, 2, 4, 4)


def model(x: np.ndarray, t: float) -> np.ndarray:
    ramp = np.linspace(-1, 1, x[0].size, dtype=np.float32).reshape(x[0].shape)
    return (0.6 * np.tanh(x * 0.5) + 0.3 * np.sin(ramp * 3 + np.float32(t / 200))).astype("float32")


def oracle_of(name: str, steps: int, extra: dict[str, Any]) -> Any:
    if name == "flow-euler":
        oracle: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    elif name == "flow-dpm++":
        oracle = DPMSolverMultistepScheduler(**FLOW_DPM)
    else:
        cls, more = ORACLES[name]
        taken = inspect.signature(cls.__init__).parameters
        oracle = cls(**{k: v for k, v in {**PLAIN, **extra, **more}.items() if k in taken})
    oracle.set_timesteps(steps)
    return oracle


def by_diffusers(oracle: Any, first: int, clean, draws, masked: np.ndarray | None) -> np.ndarray:
    """As diffusers' image-to-image pipelines go on from a noised sample; inpainting with a mask."""
    begin = first * oracle.order
    times = oracle.timesteps[begin:]
    if hasattr(oracle, "set_begin_index"):
        oracle.set_begin_index(begin)
    noised = getattr(oracle, "scale_noise", None)
    noise = torch.from_numpy(next(draws))

    def at(t) -> torch.Tensor:
        x_0, t = torch.from_numpy(clean), torch.as_tensor(t)[None]
        return noised(x_0, t, noise) if noised else oracle.add_noise(x_0, noise, t)

    x, module = at(times[0]), importlib.import_module(type(oracle).__module__)
    scale = getattr(oracle, "scale_model_input", lambda x, t: x)
    with pytest.MonkeyPatch.context() as patch:
        drawn = lambda *_, **__: torch.from_numpy(next(draws))  # noqa: E731
        patch.setattr(module, "randn_tensor", drawn, raising=False)
        for i, t in enumerate(times):
            output = torch.from_numpy(model(scale(x, t).numpy(), float(t)))
            x = oracle.step(output, t, x, return_dict=False)[0].float()
            if masked is not None:
                kept = at(times[i + 1]) if i + 1 < len(times) else torch.from_numpy(clean)
                x = torch.from_numpy(1 - masked) * kept + torch.from_numpy(masked) * x
    return x.numpy()


def by_ours(name: str, config, steps: int, first: int, clean, draws, masked) -> np.ndarray:
    sampler = scheduler(name, config, steps).from_step(first)
    noise = next(draws)
    x = sampler.add_noise(clean, noise, 0)

    def keep(i: int, x: np.ndarray) -> None:
        if masked is not None:
            x[...] = (1 - masked) * sampler.add_noise(clean, noise, i + 1) + masked * x

    def draw(out: np.ndarray) -> None:
        out[...] = next(draws)

    *_, x = denoise(model, sampler, x, draw, after=keep)
    return x


def noises(seed: int):
    rng = np.random.default_rng(seed)
    while True:
        yield rng.standard_normal(SHAPE, dtype=np.float32)


BEGUN = [name for name in NAMES if name != "pndm"]
"""All but the one whose later beginning diffusers gets wrong."""


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", BEGUN)
def test_a_later_beginning_follows_diffusers(name: str, masked: bool) -> None:
    clean = next(noises(3)) * 0.5
    mask = (np.random.default_rng(4).random((2, 1, 4, 4)) > 0.5).astype(np.float32)
    for steps, first, extra in (
        (10, 4, {}),
        (10, 0, {}),
        (20, 19, {}),
        (9, 2, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ):
        config = {"flow-euler": FLOW, "flow-dpm++": {**FLOW, **FLOW_DPM}}.get(name)
        settings = config or {**PLAIN, **extra}
        blend = mask if masked else None
        expected = by_diffusers(oracle_of(name, steps, extra), first, clean, noises(5), blend)
        got = by_ours(name, settings, steps, first, clean, noises(5), blend)
        error = np.abs(got - expected).max() / max(1.0, np.abs(expected).max())
        assert error < 2e-5, (steps, first, extra, error)


def test_pndm_begins_later_as_it_begins_at_first() -> None:
    """diffusers' own, over a list of timesteps that begins there."""
    steps, first, clean = 10, 4, next(noises(3))
    oracle = PNDMScheduler(**SCHEDULES, skip_prk_steps=True)
    oracle.set_timesteps(steps)
    first_time, *times = oracle.timesteps.unique().flip(0).tolist()[first:]
    assert len(times) == steps - first - 1
    oracle.timesteps = torch.tensor([first_time, times[0], *times])
    expected = by_diffusers(oracle, 0, clean, noises(5), None)
    config = {**SCHEDULES, "skip_prk_steps": True, "_class_name": "PNDMScheduler"}
    got = by_ours("pndm", config, steps, first, clean, noises(5), None)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class _Scheduler:
    """What get_timesteps asks of a scheduler."""

    order = 1

    def __init__(self, steps: int) -> None:
        self.timesteps = np.arange(steps)
        self.scheduler = self


@given(steps=st.integers(1, 60), hundredths=st.integers(1, 100), flow=st.booleans())
def test_the_first_step_is_the_one_of_diffusers_pipelines(steps, hundredths, flow) -> None:
    strength = hundredths / 100
    kind: Any = StableDiffusion3Img2ImgPipeline if flow else StableDiffusionImg2ImgPipeline
    times, _ = kind.get_timesteps(_Scheduler(steps), steps, strength, "cpu")
    config = FLOW if flow else PLAIN
    assert first_step(config, steps, strength) == steps - len(times)
