"""diffc.load: a model's own pipeline, and the engine of an output folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import diffc
from diffc.bundle.build import write_bundle
from diffc.errors import InputError, RequestError
from diffc_runtime import Pipeline


@pytest.fixture(scope="module")
def out(compiled) -> Path:
    """The tiny model's output folder."""
    return compiled[0]


@pytest.mark.parametrize(
    ("wishes", "runs_on"),
    [
        ({}, "ort-cpu fp32"),
        ({"device": "cpu", "dtype": "fp32"}, "ort-cpu fp32"),
        ({"dtype": "bf16"}, "torch bf16 on cpu"),
        ({"target": "torch"}, "torch fp32 on cpu"),
        ({"side": "dense"}, "ort-cpu fp32"),
    ],
)
def test_an_output_folder_is_what_pipeline_opens(out, wishes, runs_on):
    opened, expected = diffc.load(str(out), **wishes), diffc.pipeline(out, **wishes)
    assert isinstance(opened, Pipeline) and opened.runs_on == runs_on
    images = [pipe(n=2, seed=0, num_inference_steps=2).images for pipe in (opened, expected)]
    for one, other in zip(*images, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_bundle_is_opened_too(out, tmp_path):
    write_bundle(out, tmp_path / "bundle", server="none")
    assert diffc.load(tmp_path / "bundle").runs_on == "ort-cpu fp32"


def test_a_model_is_diffusers_pipeline(out, tmp_path):
    from diffusers import DiffusionPipeline

    assert isinstance(diffc.load(out / "model"), DiffusionPipeline)
    copy = shutil.copytree(out / "model", tmp_path / "copy")
    assert isinstance(diffc.load(copy), DiffusionPipeline)


@pytest.mark.parametrize(
    ("wishes", "hint"),
    [
        ({"device": "cuda"}, 'diffc.load(MODEL).to("cuda") moves it'),
        ({"dtype": "fp16"}, "diffc.load(MODEL).to(torch.float16) casts it"),
    ],
)
def test_of_a_model_torch_moves_and_casts(out, wishes, hint):
    (name,) = wishes
    with pytest.raises(RequestError, match=rf"load\(\) takes no '{name}' for a model") as caught:
        diffc.load(out / "model", **wishes)
    assert caught.value.hint == hint


def test_a_target_is_of_an_output_folder_alone(out):
    for wishes in ({"target": "ort-cpu"}, {"side": "dense"}):
        with pytest.raises(InputError, match="holds no run"):
            diffc.load(out / "model", **wishes)
