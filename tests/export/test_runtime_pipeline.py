"""The denoising loop: against diffusers' own pipelines, and request by request."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from diffc_runtime.bundles import batched_decoder
from diffc_runtime.engines import open_engine
from diffc_runtime.errors import BadRequest, UnfitEngine
from diffc_runtime.pipeline import Input, Pipeline

CONFIG = {"_class_name": "DDIMScheduler", "clip_sample": True}
LABEL = Input("class_labels", (), "int64")
TEXT = Input("encoder_hidden_states", (4, 5))
PLAIN = (Input("sample", (3, 8, 8), kind="sample"), Input("timestep", (), "int64", "timestep"))


def denoise(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Row by row, so that the result of a row cannot depend on the batch."""
    rows = []
    for i, x in enumerate(inputs["sample"]):
        shift = inputs["timestep"][i] / np.float32(1000)
        shift += 0.1 * sum(
            v[i].mean() for k, v in inputs.items() if k not in ("sample", "timestep")
        )
        rows.append(np.tanh(x * 0.7 + np.float32(shift)))
    return np.stack(rows).astype(np.float32)


def test_a_flows_noise_levels_are_those_of_the_images_size():
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    visited = []

    def still(inputs):
        visited.append(float(inputs["timestep"][0]))
        return np.zeros_like(inputs["sample"])

    sizes = ((8, 8), (64, 32))
    inputs = (Input("sample", (2, 8, 8), kind="sample", sizes=sizes),
              Input("timestep", (), kind="timestep"))  # fmt: skip
    config = dict(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config)
    config |= {"_class_name": "FlowMatchEulerDiscreteScheduler", "mu": calculate_shift(16)}
    pipe = Pipeline(still, config, (2, 8, 8), inputs=inputs)
    for height, width in sizes:
        visited.clear()
        pipe.sample(height=height, width=width, num_inference_steps=4, scheduler="flow-euler")
        oracle = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        oracle.set_timesteps(4, mu=calculate_shift(height // 2 * (width // 2)))
        np.testing.assert_allclose(visited, oracle.timesteps, rtol=1e-6)


def test_latents_of_one_size_have_no_size_in_pixels():
    """Of a pipeline whose VAE diffc does not export."""
    pipe = Pipeline(denoise, CONFIG, (4, 8, 8))
    assert pipe.image_sizes == ()
    with pytest.raises(BadRequest, match="the samples are no images here, and of one size"):
        pipe.sample(height=64, num_inference_steps=1)


class Recorder:
    """A denoiser that writes down the batch sizes it was called with."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs):
        sizes = {len(array) for array in inputs.values()}
        assert len(sizes) == 1
        self.batches.append(sizes.pop())
        return denoise(inputs)


def test_equals_diffusers_pipeline():
    """The same noise through DDIMPipeline and a real (random) UNet gives the same images."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    # v, because at the first steps an epsilon model's rounding is multiplied by 157
    scheduler = DDIMScheduler(prediction_type="v_prediction")

    @torch.no_grad()
    def call(inputs):
        return unet(*(torch.from_numpy(inputs[n]) for n in ("sample", "timestep"))).sample.numpy()

    pipeline = Pipeline(call, dict(scheduler.config), (3, 8, 8))
    samples = pipeline.generate(2, steps=10, seed=5)
    noise = np.stack([
        np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 0, i])).standard_normal(
            (3, 8, 8), dtype=np.float32)
        for i in range(2)
    ])  # fmt: skip
    oracle = DDIMPipeline(unet, scheduler)
    oracle.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        module = __import__(DDIMPipeline.__module__, fromlist=["randn_tensor"])
        patch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noise))
        images = oracle(batch_size=2, num_inference_steps=10, output_type="np").images
    np.testing.assert_allclose(
        np.clip(samples / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), images, atol=1e-5
    )


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "euler", "dpm++"])
@pytest.mark.parametrize("batches", [[], [(1, 1)], [(1, 4)], [(3, 3)], [(1, 1), (5, 5)]])
def test_an_image_is_the_same_in_any_batch(scheduler, batches):
    inputs = (PLAIN[0], Input("timestep", (), "float32", "timestep"))
    whole = Pipeline(denoise, CONFIG, (3, 8, 8), inputs=inputs)
    reference = whole.generate(7, 5, 11, scheduler)
    pipeline = Pipeline(denoise, CONFIG, (3, 8, 8), inputs=inputs, batches=batches)
    np.testing.assert_array_equal(pipeline.generate(7, 5, 11, scheduler), reference)
    np.testing.assert_array_equal(pipeline.generate(2, 5, 11, scheduler, first=4), reference[4:6])
    assert np.abs(whole.generate(7, 5, 12, scheduler) - reference).max() > 0.01
    assert np.abs(reference[0] - reference[1]).max() > 0.01


@pytest.mark.parametrize(
    ("batches", "n", "guidance", "called"),
    [
        ([(1, 4)], 10, 1.0, [4, 4, 2]),
        ([(1, 4)], 10, 3.0, [4, 4, 4, 4, 4]),
        ([(1, 1)], 2, 3.0, [1, 1, 1, 1]),
        ([(4, 4)], 6, 1.0, [4, 4]),
        ([(4, 4)], 3, 3.0, [4, 4]),
        ([(1, 1), (4, 4), (8, 8)], 11, 1.0, [8, 4]),
        ([], 70, 1.0, [64, 6]),
    ],
)
def test_splits_to_the_batches_that_the_engine_serves(batches, n, guidance, called):
    recorder = Recorder()
    pipeline = Pipeline(recorder, CONFIG, (3, 8, 8), inputs=(*PLAIN, LABEL), batches=batches)
    pipeline.generate(n, 1, 0, None, guidance, {"class_labels": 3}, {"class_labels": 0})
    assert recorder.batches == called


@pytest.mark.parametrize("batches", [[], [(1, 1)], [(4, 4)]])
def test_guidance(batches):
    """One step by hand: out = u + w (c - u), then diffusers' own DDIM step."""
    pipeline = Pipeline(denoise, CONFIG, (3, 8, 8), inputs=(*PLAIN, LABEL, TEXT), batches=batches)
    text = np.random.default_rng(0).standard_normal((2, 4, 5), dtype=np.float32)
    given = {"class_labels": [4, 9], "encoder_hidden_states": text}
    none = {"class_labels": 0, "encoder_hidden_states": np.zeros((4, 5))}
    samples = pipeline.generate(2, 1, 3, None, 2.5, given, none)
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(1)
    for i in range(2):
        noise = np.random.Generator(np.random.Philox(key=3, counter=[0, 0, 0, i]))
        x = noise.standard_normal((1, 3, 8, 8), dtype=np.float32)
        time = scheduler.timesteps.numpy()
        label = {"class_labels": np.array([given["class_labels"][i]])}
        c = denoise({"sample": x, "timestep": time, **label, "text": text[i : i + 1]})
        u = denoise({"sample": x, "timestep": time, "class_labels": np.zeros(1)})
        out = torch.from_numpy(u + 2.5 * (c - u))
        oracle = scheduler.step(out, int(time[0]), torch.from_numpy(x)).prev_sample[0].numpy()
        np.testing.assert_allclose(samples[i], oracle, atol=1e-5)


def test_guidance_of_one_is_none(conditional):
    engine = open_engine(conditional, threads=1)
    recorder = Recorder()
    pipeline = Pipeline(recorder, CONFIG, (3, 8, 8), inputs=engine.inputs, batches=[(1, 2)])
    given = {"class_labels": 1, "encoder_hidden_states": np.ones((4, 5))}
    pipeline.generate(1, 2, 0, conditions=given)
    assert recorder.batches == [1, 1]


def test_drops_the_channels_of_a_learned_variance(conditional):
    engine = open_engine(conditional, threads=1)
    pipeline = Pipeline(engine.run, CONFIG, (3, 8, 8), inputs=engine.inputs, batches=[(1, 2)])
    given = {"class_labels": 1, "encoder_hidden_states": np.ones((4, 5))}
    assert pipeline.generate(3, 2, 0, conditions=given).shape == (3, 3, 8, 8)


def test_half_precision_inputs_keep_the_state_in_float32():
    inputs = (Input("sample", (3, 8, 8), "float16", "sample"), PLAIN[1])
    seen = []

    def half(given):
        seen.append(given["sample"].dtype)
        return denoise({**given, "sample": given["sample"].astype(np.float32)}).astype(np.float16)

    # x_0 itself, as the other predictions multiply the rounding of fp16 by 157
    config = {**CONFIG, "prediction_type": "sample", "set_alpha_to_one": False}
    samples = Pipeline(half, config, (3, 8, 8), inputs=inputs).generate(2, 5, 0)
    whole = Pipeline(denoise, config, (3, 8, 8)).generate(2, 5, 0)
    assert set(seen) == {np.dtype(np.float16)}
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, whole, atol=2e-3)
    assert np.abs(samples - samples.astype(np.float16)).max() > 0


def test_decodes_latents():
    seen = []

    def decode(latents):
        seen.append(latents)
        return latents.repeat(2, axis=2).repeat(2, axis=3)

    plain = Pipeline(denoise, CONFIG, (3, 8, 8)).generate(2, 3, 0)
    pipeline = Pipeline(
        denoise, CONFIG, (3, 8, 8), decode=decode, latent_scale=0.5, latent_shift=0.25
    )
    assert pipeline.generate(2, 3, 0).shape == (2, 3, 16, 16)
    np.testing.assert_allclose(seen[0], plain / 0.5 + 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("batches", "n", "called"),
    [
        ([(1, 1), (8, 8)], 3, [8]),
        ([(1, 1), (8, 8)], 17, [8, 8, 1]),
        ([(4, 4)], 5, [4, 4]),
        ([(1, 4)], 6, [4, 2]),
        ([], 2, [1, 1]),
    ],
)
def test_the_decoder_is_called_with_batches_that_it_serves(batches, n, called):
    seen = []

    def run(inputs):
        latents = inputs["latent"]
        assert latents.dtype == np.float16
        seen.append(len(latents))
        return latents * 2

    latents = np.random.default_rng(0).standard_normal((n, 3, 2, 2), dtype=np.float32)
    found = batched_decoder(run, "latent", "float16", batches)(latents)
    assert seen == called
    np.testing.assert_array_equal(found, (latents.astype(np.float16) * 2).astype(np.float32))


WRONG = [
    ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
    ({"steps": 10_000}, "not 10000"),
    ({"steps": "fifty"}, "not 'fifty'"),
    ({"steps": float("nan")}, "not nan"),
    ({"n": 0}, "number of images"),
    ({"n": 10_000}, "from 1 to 1024"),
    ({"n": 1.5}, "number of images"),
    ({"seed": -1}, "seed must be"),
    ({"seed": 2**63}, "seed must be"),
    ({"seed": None}, "seed must be"),
    ({"guidance": True}, "guidance must be 0 to 100, not True"),
    ({"scheduler": "plms"}, "unknown scheduler 'plms'"),
    ({"scheduler": "eulr"}, "unknown scheduler 'eulr' .did you mean euler. known: ddpm"),
    ({"scheduler": "flow-euler"}, "needs a flow-matching model"),
    ({"guidance": float("inf")}, "guidance must be 0 to 100"),
    ({"guidance": "strong"}, "guidance must be 0 to 100"),
    ({"guidance": 2.0}, "unconditional value of condition 'class_labels' is missing"),
    ({"conditions": {}}, "the condition 'class_labels' is missing"),
    ({"conditions": {"class_labels": [1, 2, 3]}}, r"must have shape \(2,\) or \(\), not \(3,\)"),
    ({"conditions": {"class_labels": [[1], [2]]}}, "must have shape"),
    ({"conditions": {"class_labels": 1.5}}, "must be whole numbers"),
    ({"conditions": {"class_labels": "cat"}}, "not an array of real numbers"),
    ({"conditions": {"class_labels": [[1], [2, 3]]}}, "not an array of real numbers"),
    ({"conditions": {"class_labels": [1j, 2j]}}, "not an array of real numbers"),
    ({"conditions": {"label": 1}}, r"unknown condition 'label' .the model takes: class_labels"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG)
def test_wrong_requests(wrong, says):
    recorder = Recorder()
    pipeline = Pipeline(recorder, CONFIG, (3, 8, 8), inputs=(*PLAIN, LABEL))
    request = {"n": 2, "steps": 3, "seed": 0, "conditions": {"class_labels": 1}} | wrong
    with pytest.raises(BadRequest, match=says):
        pipeline.generate(**request)
    assert recorder.batches == []


def test_guidance_needs_conditions():
    with pytest.raises(BadRequest, match="needs a model with conditions"):
        Pipeline(denoise, CONFIG, (3, 8, 8)).generate(1, 1, 0, guidance=2.0)


def test_whole_timesteps_are_not_rounded_silently():
    pipeline = Pipeline(denoise, CONFIG, (3, 8, 8))
    with pytest.raises(BadRequest, match="visits fractions of timesteps"):
        pipeline.generate(1, 7, 0, "euler")


def test_an_engine_that_gives_nan_is_named():
    pipeline = Pipeline(lambda i: np.full_like(i["sample"], np.nan), CONFIG, (3, 8, 8))
    with pytest.raises(UnfitEngine, match="not numbers"):
        pipeline.generate(1, 1, 0)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_own_cost_per_step_and_allocation(scheduler):
    """Everything but the engine: under 0.2 ms a step at 32x32x3, and no memory that grows.

    In processor time, which other processes do not change; bench/serving.py has it by the clock.
    """
    output = np.zeros((1, 3, 32, 32), np.float32)
    pipeline = Pipeline(lambda inputs: output, CONFIG, (3, 32, 32))
    pipeline.generate(1, 2, 0, scheduler)
    times = []
    for _ in range(5):
        start = time.thread_time()
        pipeline.generate(1, 100, 0, scheduler)
        times.append((time.thread_time() - start) / 100)
    assert min(times) < 0.2e-3
    peaks = []
    for steps in (10, 400):
        tracemalloc.start()
        pipeline.generate(1, steps, 0, scheduler)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    per_step = (peaks[1] - peaks[0]) / 390
    # the tables' few floats per step; an array of the sample would be 12 KiB
    assert per_step < 1024
