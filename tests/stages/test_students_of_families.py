"""Pipelines, cut and distilled for a guided loop: diffusers' own pipeline samples the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_prompts
from support.noise_of_images import as_theirs
from support.quick import QUICK

import diffc
from diffc_runtime.noise import image_noise

LOOP = {"steps": 4, "batch": 4, "warmup": 1, "trajectories": 6, "teacher_steps": 4}
LOOPS = {"sd": "ddim:2:3", "sd3-without-t5": "flow-euler:2:3", "flux": "own:1", "pixart": "own:1:3"}
"""Loops with guidance, which the student carries; FLUX takes it as an input."""
PROMPT, SEED, N = "a red cat", 5, 2


def compile_student(folder: Path, name: str) -> diffc.Report:
    tiny_prompts.SAVERS[name](folder / "model")
    (folder / "prompts.txt").write_text(f"{PROMPT}\na dog\na blue house\n")
    options = {
        **QUICK,
        "data": {**QUICK["data"], "prompts": str(folder / "prompts.txt")},
        "distill": {**QUICK["distill"], "aim": "loop", "loop": LOOP},
        "loops": [LOOPS[name]],
        **({"export": {"resolution": 16}} if name == "flux" else {}),
    }
    return diffc.compile(
        folder / "model", ratio=0.25, out=folder / "out", options=options, stop="distill"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_stock_samplers_make_the_students_images(tmp_path, name):
    report = compile_student(tmp_path, name)
    assert report.loop_distillation is not None
    assert report.compressed.macs == pytest.approx(0.75 * report.model.macs, rel=0.2)
    steps = int(LOOPS[name].split(":")[1])
    assert not (tmp_path / "out" / "onnx").exists()  # the run ended before its exports
    pipe = diffc.pipeline(tmp_path / "out", target="torch")
    assert pipe.defaults.steps == steps and pipe.defaults.guidance == 1
    height, width = pipe.image_size
    pipe.decode = None
    ours = pipe.sample(PROMPT, num_images_per_prompt=N, generator=SEED)
    theirs = diffc.load(tmp_path / "out" / "model")
    theirs.set_progress_bar_config(disable=True)
    noise = as_theirs(image_noise(SEED, 0, N, pipe.sample_shape), name)
    with torch.no_grad():
        images = theirs(
            PROMPT, latents=noise, num_images_per_prompt=N, num_inference_steps=steps,
            height=height, width=width, output_type="latent",
            **({} if name == "flux" else {"guidance_scale": 1.0}),
            **({"use_resolution_binning": False} if name == "pixart" else {}),
        ).images  # fmt: skip
    wanted, got = np.asarray(images), np.asarray(as_theirs(ours, name))
    assert np.linalg.norm(got - wanted) <= 1e-3 * np.linalg.norm(wanted)
