"""Samplers that step between the trained timesteps, through an engine, against diffusers' own."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler

import diffc
from diffc.bundle.build import write_bundle
from diffc_runtime import open_bundle
from diffc_runtime.noise import image_noise

STEPS, SEED = 7, 3


def test_euler_with_linspace_is_diffusers_own(compiled, tmp_path):
    out, _, _ = compiled
    write_bundle(out, tmp_path / "bundle", server="none")
    served = open_bundle(tmp_path / "bundle")
    served.scheduler_config = {**served.scheduler_config, "timestep_spacing": "linspace"}
    found = served.generate(1, STEPS, SEED, scheduler="euler")

    scheduler = EulerDiscreteScheduler.from_config(served.scheduler_config)
    scheduler.set_timesteps(STEPS)
    assert any(float(t) % 1 for t in scheduler.timesteps)
    unet = diffc.load(out / "model").unet.eval()
    noise = image_noise(SEED, 0, 1, served.sample_shape)
    x = torch.from_numpy(noise) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x).prev_sample
    assert np.abs(found - x.numpy()).max() < 1e-3 * x.abs().max()
