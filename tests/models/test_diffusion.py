"""The noising process of a scheduler's config, held to diffusers' own tables."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from diffc.data.sampling import deterministic_loop
from diffc.errors import InputError
from diffc.models.diffusion import process_from_scheduler, served_settings
from diffc.models.families import family, flow_keys
from diffc.models.save import write_scheduler


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_signal_and_noise_are_diffusers(schedule: str, zero_snr: bool) -> None:
    scheduler = DDIMScheduler(
        beta_schedule=schedule, rescale_betas_zero_snr=zero_snr, prediction_type="v_prediction"
    )
    process = process_from_scheduler({**scheduler.config})
    bar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(process.signal**2, bar, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(process.noise**2, 1 - bar, atol=1e-6, rtol=1e-4)
    assert (process.signal > 0).all()  # it is divided by


def test_a_solver_that_is_told_to_take_flows_sigmas_is_of_flow() -> None:
    """As Sana and Wan ship: the same process as flow matching's own class, by the same shift."""
    told = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours, theirs = (
        process_from_scheduler({**s.config, "_class_name": type(s).__name__}) for s in (told, own)
    )
    assert ours.prediction == theirs.prediction == "flow"
    torch.testing.assert_close(ours.noise, theirs.noise)
    torch.testing.assert_close(ours.model_time, theirs.model_time)
    told.set_timesteps(10)  # the solver's own levels lie on the same line of timesteps
    torch.testing.assert_close(told.timesteps.float(), 1000 * told.sigmas[:-1], atol=1.0, rtol=0)


@pytest.mark.parametrize("name", ["ScoreSdeVeScheduler", "EDMEulerScheduler", "KarrasVeScheduler"])
def test_noise_of_no_beta_schedule_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=name):
        process_from_scheduler({"_class_name": name, "num_train_timesteps": 1000})


def test_flow_by_settings_is_sampled_by_flows_own_euler() -> None:
    told = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    made = deterministic_loop({**told.config, "_class_name": type(told).__name__}, 8)
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    own.set_timesteps(8)
    times = torch.from_numpy(made.trajectory((4, 8, 8)).timesteps).float()
    torch.testing.assert_close(times, own.timesteps)


@pytest.mark.parametrize("key", ["sigmas_end", "of_another_family"])
def test_what_a_pipeline_adds_is_served_and_not_saved(key, tmp_path, monkeypatch) -> None:
    """diffusers' classes do not know it; whatever families state, and nothing else."""
    if key not in flow_keys():
        added = type(family("SanaTransformer2DModel"))
        monkeypatch.setattr(added, "flow_settings", {key: 3}, raising=False)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0, key: 3, "unknown": 1}
    served = served_settings(config)
    assert served[key] == 3 and "unknown" not in served
    write_scheduler(tmp_path, config)
    written = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert written == {name: value for name, value in config.items() if name != key}
