"""Synthetic samples: the model's own, by diffusers' sampler, independent of batch and share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from diffc.data.clean import CleanSet
from diffc.data.randomness import keyed_noise
from diffc.data.sampling import accurate_loop, deterministic_loop, sample
from diffc.data.synthetic import NOISE, Conditioning, synthesize
from diffc.errors import RequestError
from diffc.models.denoiser import denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc_export.events import drain
from diffc_export.specs import TensorSpec

CONFIG = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "clip_sample": True}


def tiny(classes: int | None = None) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()


def make(n: int, **options) -> CleanSet:
    model = tiny(options.pop("model_classes", None))
    return drain(synthesize(denoiser_of(model, FAMILY, CONFIG), n, steps=4, **options))


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """bf16 rounds differently for different batches; what is compared here is exact."""
    monkeypatch.setattr("diffc.data.synthetic.fast_dtype", lambda device: torch.float32)


def test_an_image_does_not_depend_on_its_batch() -> None:
    whole, parts = make(5, batch=5), make(5, batch=2)
    torch.testing.assert_close(whole.sample, parts.sample, atol=2e-5, rtol=0)
    assert whole.sample.shape == (5, 1, 8, 8) and not whole.conditions


def test_other_seeds_give_other_images() -> None:
    assert not torch.allclose(make(2, seed=0).sample, make(2, seed=1).sample, atol=1e-2)


def test_sampling_is_diffusers_ddim(monkeypatch) -> None:
    """Oracle: diffusers' own pipeline, given the same noise."""
    model, noise = tiny(), keyed_noise([(1, 2)], (1, 8, 8))
    scheduler = deterministic_loop(CONFIG, 5)
    ours = sample(lambda x, t: model(x, t).sample, scheduler, noise)
    pipeline = DDIMPipeline(model, DDIMScheduler.from_config(CONFIG))
    monkeypatch.setattr(
        "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *a, **k: noise
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        num_inference_steps=5, eta=0.0, output_type="np", use_clipped_model_output=False
    )
    image = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(image - theirs.images).max() < 1e-5


def test_samples_are_those_of_diffusers_solver(monkeypatch) -> None:
    """Oracle: diffusers' own scheduler around the same network, from the same noise."""
    monkeypatch.setitem(CONFIG, "clip_sample", False)
    clean, model = make(3), tiny()
    oracle = DPMSolverMultistepScheduler.from_config(CONFIG, timestep_spacing="trailing")
    oracle.set_timesteps(4)
    x = keyed_noise(((0, NOISE, i) for i in range(3)), (1, 8, 8))
    with torch.no_grad():
        for t in oracle.timesteps:
            x = oracle.step(model(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(clean.sample, x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))
    assert clean.origin == "3 samples of the dense model, 4 steps of DPM-Solver++, seed 0"


def test_pixels_are_clipped_where_the_models_sampler_clips() -> None:
    free = dict(CONFIG, clip_sample=False)
    wild = drain(synthesize(denoiser_of(tiny(), FAMILY, free), 3, steps=4)).sample
    assert wild.abs().max() > 1
    torch.testing.assert_close(make(3).sample, wild.clamp(-1, 1))


def test_a_flow_keeps_the_deterministic_loop() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert accurate_loop(config, 5, (1, 4, 4)) == deterministic_loop(config, 5)


@pytest.mark.parametrize("steps", [1, 2, 4, 5000])
def test_the_accurate_loop_takes_what_steps_there_are(steps: int) -> None:
    loop = accurate_loop(CONFIG, steps, (1, 8, 8))
    assert str(loop.loop) == f"dpm++:{min(steps, 1000)}:1@trailing"


def test_a_config_that_the_solver_has_not_keeps_the_deterministic_loop() -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}
    assert accurate_loop(config, 4, (1, 8, 8)) == deterministic_loop(config, 4)


def test_flow_matching_integrates_a_known_velocity() -> None:
    """With u = eps - x_0 known exactly, any number of Euler steps lands on x_0."""
    scheduler = deterministic_loop(
        {
            **FlowMatchEulerDiscreteScheduler().config,
            "_class_name": "FlowMatchEulerDiscreteScheduler",
        },
        3,
    )
    noise, x0 = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(sample(lambda x, t: noise - x0, scheduler, noise), x0)


def test_flow_matching_visits_the_levels_of_fluxs_pipeline() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    scheduler, visited = deterministic_loop(config, 4), []

    def model(x, t):
        visited.append(float(t[0]))
        return torch.zeros_like(x)

    sample(model, scheduler, torch.randn(1, 1024, 4))
    oracle = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    oracle.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift(1024))
    assert visited == oracle.timesteps.tolist()


def test_labels_are_drawn_over_all_classes() -> None:
    clean = make(40, model_classes=3, batch=40)
    assert set(clean.conditions["class_labels"].tolist()) == {0, 1, 2}


def test_given_conditions_are_aligned_and_missing_ones_refused() -> None:
    class Conditional:
        def class_count(self, config):
            return None

        def call(self, model, inputs):
            return inputs["sample"] * 0 + inputs["encoder_hidden_states"].mean((1, 2)).view(
                -1, 1, 1, 1
            )

    specs = [
        TensorSpec("sample", (1, 8, 8), kind="sample"),
        TensorSpec("timestep", (), "int64", kind="timestep"),
        TensorSpec("encoder_hidden_states", (2, 3)),
    ]
    pool = torch.randn(2, 2, 3)
    given = {"encoder_hidden_states": pool}
    denoiser = denoiser_of(tiny(), Conditional(), CONFIG, specs)
    clean = drain(synthesize(denoiser, 5, Conditioning(given), steps=2))
    torch.testing.assert_close(
        clean.conditions["encoder_hidden_states"], pool[torch.tensor([0, 1, 0, 1, 0])]
    )
    with pytest.raises(RequestError, match="encoder_hidden_states"):
        drain(synthesize(denoiser, 2, steps=2))


def test_progress_ends_at_the_total() -> None:
    events = list(synthesize(denoiser_of(tiny(), FAMILY, CONFIG), 3, steps=4, batch=2))
    assert events[-1].done == events[-1].total == 3
    assert [event.done for event in events] == sorted(event.done for event in events)


SHARED = """
import sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from pathlib import Path
import test_synthetic as t
from diffc.data.processes import process_share
assert process_share() == (int(sys.argv[3]), 2)
t.__dict__["synthesize"].__globals__["fast_dtype"] = lambda device: torch.float32
t.make(5, batch=2).save(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    from socket import socket

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = str(Path(__file__).parent)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(tmp_path / f"{rank}.safetensors"), here, str(rank)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    alone = make(5, batch=5)
    for rank in range(2):
        shared = CleanSet.load(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(shared.sample, alone.sample, atol=2e-5, rtol=0)
