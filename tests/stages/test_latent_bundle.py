"""A latent pipeline to the end: the decoder is exported and built beside the denoisers, and the
images of a bundle are those of diffusers for the same noise and prompt."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from support.command import diffc_in_process
from support.quick import QUICK
from support.tiny_text import save_sd

import diffc
from diffc.bundle.build import write_bundle
from diffc.bundle.server import why_no_triton
from diffc.errors import InputError
from diffc.output import locked_recipe
from diffc.stages.order import finish
from diffc_export.events import drain
from diffc_runtime import BadRequest, open_bundle
from diffc_runtime.noise import image_noise

STEPS, SEED, GUIDANCE = 4, 3, 3.0


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    (folder / "prompts.txt").write_text("a red cat\na blue house\n")
    prompts = {**QUICK["data"], "prompts": str(folder / "prompts.txt")}
    options = {**QUICK, "data": prompts, "build": {"batch": (1, 2)}}
    diffc.compile(
        save_sd(folder / "sd"), ratio=0.3, out=folder / "out", target="ort-cpu", options=options
    )
    return folder / "out"


@pytest.mark.slow
def test_the_decoder_stands_beside_the_engines(out):
    info = json.loads((out / "engines/ort-cpu/decoder/engine.json").read_text())
    assert info["source"]["class_name"] == "AutoencoderKL"
    assert info["source"]["scaling_factor"] == 0.5
    assert info["outputs"][0]["shape"] == [3, 16, 16]
    stages = {stage["name"] for stage in json.loads((out / "report.json").read_text())["stages"]}
    assert {"export-decoder", "build-ort-cpu-decoder"} <= stages


@pytest.mark.slow
def test_a_bundles_images_are_diffusers_own(out, tmp_path):
    write_bundle(out, tmp_path / "bundle", server="none")
    served = open_bundle(tmp_path / "bundle")
    pipeline = diffc.load(out / "model")
    with torch.no_grad():
        rows, null = pipeline.encode_prompt("a red cat", "cpu", 1, True)
    images = served.generate(
        1, STEPS, SEED, scheduler="ddim", guidance=GUIDANCE,
        conditions={"encoder_hidden_states": rows.numpy()},
        unconditional={"encoder_hidden_states": null.numpy()},
    )  # fmt: skip
    noise = image_noise(SEED, 0, 1, served.sample_shape)
    expected = pipeline(
        prompt_embeds=rows, negative_prompt_embeds=null, latents=torch.from_numpy(noise),
        num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np",
    ).images  # fmt: skip
    shown = np.clip(images / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    assert expected.std() > 0.01
    assert np.abs(shown - expected).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort-cpu", "torch"])
def test_a_prompt_makes_the_image_of_diffusers_pipeline(out, target):
    """The compressed model, its text encoder and its decoder, from OUT alone."""
    pipe = diffc.pipeline(out, target=target)
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    images = pipe(
        "a red cat", "a dog", num_images_per_prompt=2, height=16, width=16, generator=SEED,
        scheduler="ddim", output_type="np", **options,
    ).images  # fmt: skip
    reference = diffc.load(out / "model")
    noise = torch.from_numpy(image_noise(SEED, 0, 2, pipe.sample_shape))
    expected = reference(
        "a red cat", negative_prompt="a dog", num_images_per_prompt=2, latents=noise,
        output_type="np", **options,
    ).images  # fmt: skip
    assert expected.std() > 0.01
    assert np.abs(images - expected).max() <= 2 / 255
    with pytest.raises(BadRequest, match="it makes images of height 16 and width 16"):
        pipe("a red cat", height=32)


@pytest.mark.slow
def test_generate_takes_prompts(out, tmp_path):
    files = [tmp_path / f"a-{i}.png" for i in range(4)]
    run = diffc_in_process(
        "generate", out, "a red cat, sleeping", "x" * 90, "--negative-prompt", "a dog", "--n", "2",
        "--guidance", "3", "--steps", "2", "--out", tmp_path / "a.png",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert all(file.is_file() for file in files) and len(list(tmp_path.iterdir())) == 4
    assert f"note: a prompt is longer than the 77 tokens that the model takes: '{'x' * 15}' is" in (
        run.stderr
    )
    both = tmp_path / "both.png"
    run = diffc_in_process(
        "generate", out, "a cat", "a dog", "--compare", "--steps", "2", "--out", both
    )
    assert run.returncode == 0, run.stderr
    assert Image.open(both).size[0] > Image.open(files[0]).size[0]
    again, how = tmp_path / "again.png", ("a cat", "--steps", "3", "--image", files[0])
    run = diffc_in_process("generate", out, *how, "--strength", "0.4", "--out", again)
    assert run.returncode == 0, run.stderr
    before, after = (np.asarray(Image.open(path)) for path in (files[0], again))
    assert before.shape == after.shape and (before != after).any()
    run = diffc_in_process("generate", out, *how, "--mask", both, "--out", tmp_path / "no.png")
    assert run.returncode == 2 and "a mask has the size of its image" in run.stderr


@pytest.mark.slow
def test_a_folder_that_was_moved_is_named(out, tmp_path):
    pipe = diffc.pipeline(shutil.copytree(out, tmp_path / "OUT"))
    (tmp_path / "OUT").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"clean\.safetensors is missing") as caught:
        pipe(num_inference_steps=1)
    assert "open the folder again" in caught.value.hint


@pytest.mark.slow
def test_a_model_in_torch_goes_with_its_last_name(out):
    """On a GPU its memory has to be free at once, and not with the next collection of garbage."""
    pipe = diffc.pipeline(out, target="torch")
    pipe("a cat", num_inference_steps=1)
    gone = weakref.ref(pipe)
    gc.disable()
    try:
        del pipe
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_the_report_names_the_text_encoders(out):
    texts = json.loads((out / "report.json").read_text())["texts"]
    assert [row["name"] for row in texts["encoders"]] == ["text_encoder"]
    (engine,) = texts["encoders"][0]["engines"]
    assert engine["precision"] == "fp32" and 0 <= engine["error"] < 1e-3
    vae = json.loads((out / "report.json").read_text())["vae_encoder"]
    assert vae["params"] > 0 and 0 < vae["engines"][0]["error"] < 1e-3
    page = (out / "report.md").read_text()
    assert "Encoders of texts and images" in page and "vae encoder" in page


@pytest.mark.slow
def test_a_model_repository_holds_the_decoder_and_the_text_encoder(out, tmp_path):
    made = write_bundle(out, tmp_path / "models", server="triton")
    assert made.models == ("denoiser", "decoder", "text_encoder", "pipeline", "pipeline_bls")
    engines = {path.parent.parent.name for path in (tmp_path / "models").glob("*/1/model.onnx")}
    assert engines == {"denoiser", "decoder", "text_encoder"}


@pytest.mark.slow
def test_without_a_server_the_served_figures_say_so(out, monkeypatch):
    monkeypatch.delenv("DIFFC_TRITON_ENV", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert [row.absent for row in served(out).served] == [
        "no tritonserver here: it is not on PATH, and DIFFC_TRITON_ENV names no folder with one"
    ] * 2


@pytest.mark.slow
@pytest.mark.skipif(why_no_triton() is not None, reason="no tritonserver (scripts/triton_env.sh)")
def test_a_real_server_is_measured_with_conditions(out):
    """Both sides, through a real tritonserver, with a text condition and the decoder."""
    rows = served(out).served
    assert [row.side for row in rows] == ["dense", "compressed"]
    for row in rows:
        assert row.absent is None and row.in_process_ms > 0
        assert [level.concurrency for level in row.levels] == [1, 4, 16]
        assert all(level.requests > 0 and level.errors == 0 for level in row.levels)
        first = row.levels[0].latency_ms
        assert row.overhead == pytest.approx(first.p50 / row.in_process_ms)


def served(out):
    recipe = locked_recipe(out)
    measure = recipe.measure.model_copy(update={"server": "triton"})
    return drain(finish(out, recipe.model_copy(update={"measure": measure}), "bench"))
