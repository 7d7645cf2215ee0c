"""Folders for other libraries: what is refused, the graphs' inputs, and OpenVINO GenAI's images."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import compile_quickly
from support.tiny_prompts import SAVERS, save_flux

import diffc
from diffc.errors import DiffcError, InputError, RequestError
from diffc.layouts.graphs import write_called
from diffc.layouts.known import LAYOUTS
from diffc.layouts.write import PipelineWriter, write_layout
from diffc.models.families.base import PipelineCall
from diffc.models.source import find_source

PROMPT, STEPS, GUIDANCE, SEED, SIDE = "a blue ankle boot", 6, 5.0, 7, 32
TOLERANCE = 2
"""Of 255: the same prompt, noise and steps in another library, which rounds in its own way."""

OPTIMUM_PYTHON = "DIFFC_OPTIMUM_PYTHON"
"""An interpreter with optimum-onnx, whose transformers and diffusers are older than diffc's."""
ASK_OPTIMUM = """
import sys
import numpy as np, torch
from optimum.onnxruntime import ORTDiffusionPipeline
folder, prompt, steps, guidance, seed, side, goal = sys.argv[1:]
pipe = ORTDiffusionPipeline.from_pretrained(folder)
generator = torch.Generator().manual_seed(int(seed))
images = pipe(prompt, num_inference_steps=int(steps), guidance_scale=float(guidance),
              height=int(side), width=int(side), generator=generator, output_type="np").images
np.save(goal, images)
"""


@pytest.mark.parametrize(
    "layout, says",
    [("optimun", "did you mean optimum?"), ("zzz", "known: openvino, optimum")],
)
def test_an_unknown_layout_names_the_nearest_one(compiled, layout, says):
    with pytest.raises(RequestError, match=f"unknown layout '{layout}'") as caught:
        write_layout(compiled[0], layout)
    assert says in str(caught.value.hint)


def test_a_pipeline_without_a_reader_is_refused_and_nothing_is_written(compiled, tmp_path):
    with pytest.raises(InputError, match=r"no reader for a DDPMPipeline") as caught:
        write_layout(compiled[0], "optimum", to=tmp_path / "to")
    assert "StableDiffusionXLPipeline" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused(compiled, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not empty"):
        write_layout(compiled[0], "optimum", to=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_is_no_run_or_has_no_onnx_is_refused(tmp_path, compiled):
    with pytest.raises(InputError, match="holds no run of diffc"):
        write_layout(tmp_path, "optimum")
    (tmp_path / "recipe.lock.yaml").write_bytes((compiled[0] / "recipe.lock.yaml").read_bytes())
    with pytest.raises(InputError, match="holds no exported model") as caught:
        write_layout(tmp_path, "optimum", to=tmp_path / "to")
    assert "diffc export" in str(caught.value.hint)


def test_a_missing_package_is_named_before_any_work(compiled, monkeypatch):
    monkeypatch.setattr("diffc.layouts.openvino.find_spec", lambda name: None)
    with pytest.raises(DiffcError, match="needs the package openvino") as caught:
        write_layout(compiled[0], "openvino")
    assert "pip install" in str(caught.value.hint)


@pytest.mark.parametrize("scalar", [True, False])
def test_a_graph_called_as_a_pipeline_does_gives_the_same(tmp_path, scalar):
    """One timestep for all rows, in the pipeline's unit; tokens of 2x2; other names."""
    ort = pytest.importorskip("onnxruntime")
    plain, goal = _toy_graph(tmp_path / "toy.onnx"), tmp_path / "called.onnx"
    whole = PipelineCall({"sample": "hidden_states", "out_sample": "out"}, scalar, 1000.0, 2)
    described = {"inputs": [{"name": "sample", "shape": [3, 4, 6]}]}
    (tmp_path / "model.json").write_text(json.dumps(described))
    write_called(plain, whole, goal, scalar_timestep=scalar)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((5, 3, 4, 6), np.float32)
    direct = ort.InferenceSession(plain).run(
        None, {"sample": sample, "timestep": np.full(5, 2000, np.float32)}
    )[0]
    two = np.array(2, np.int64) if scalar else np.array([2], np.float32)
    called = ort.InferenceSession(goal)
    inputs = {"hidden_states": packed(sample), "timestep": two}
    assert [value.name for value in called.get_outputs()] == ["out"]
    assert np.array_equal(called.run(None, inputs)[0], packed(direct))


def packed(latents: np.ndarray) -> np.ndarray:
    """As FLUX's pipeline packs them."""
    import torch
    from diffusers import FluxPipeline

    tokens = FluxPipeline._pack_latents(torch.from_numpy(latents), *latents.shape)
    return np.asarray(tokens)


def _toy_graph(path: Path, *, with_text: bool = False) -> Path:
    """sample * timestep * the row of each place, as diffc's graphs name things; text as it is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    real = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("sample", real, ["batch", 3, 4, 6]),
        helper.make_tensor_value_info("timestep", real, ["batch"]),
    ]
    rows = np.arange(4, dtype=np.float32)[:, None]
    numbers = {"axes": np.array([1, 2, 3], np.int64), "rows": rows}
    nodes = [
        helper.make_node("Unsqueeze", ["timestep", "axes"], ["column"]),
        helper.make_node("Mul", ["sample", "column"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "rows"], ["out_sample"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    outputs = [helper.make_tensor_value_info("out_sample", real, ["batch", 3, 4, 6])]
    if with_text:
        nodes.append(helper.make_node("Identity", ["text"], ["out_text"]))
        inputs.append(helper.make_tensor_value_info("text", real, ["batch", 5, 2]))
        outputs.append(helper.make_tensor_value_info("out_text", real, ["batch", 5, 2]))
    graph = helper.make_graph(nodes, "toy", inputs, outputs, weights)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@dataclass(frozen=True)
class Exported:
    """A model with its OUT, cut and exported, and the side of its images in pixels."""

    model: Path | str
    out: Path
    side: int


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str], Exported]:
    """Exports a pipeline by its name, once, when a test has seen that its reader is there."""
    place = tmp_path_factory.mktemp("layouts")
    (place / "prompts.txt").write_text("a red cat\na blue dog\n")

    @cache
    def export(name: str) -> Exported:
        model: Path | str = name
        options: dict[str, Any] = {"ratio": 0.5, "distill": {"aim": "all-steps"}}
        if name != "demo-text":
            model = place / name / "model"
            SAVERS[name](model)
            options["data"] = {"prompts": place / "prompts.txt"}
        if name == "flux":
            options["export"] = {"resolution": ["8x8"]}
        out = place / f"{name}-out"
        compile_quickly(model, out, "export", **options)
        return Exported(model, out, SIDE if name == "demo-text" else 16)

    return export


def torch_images(model: Path | str, side: int) -> np.ndarray:
    """What diffusers' own pipeline makes, 0..255."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffc.load(model)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np",
        generator=torch.Generator().manual_seed(SEED), height=side, width=side,
    ).images  # fmt: skip
    return 255 * np.asarray(images, np.float64)


def judge(images: np.ndarray, run: Exported, side: str) -> None:
    expected = torch_images(run.model if side == "dense" else run.out / "model", run.side)
    assert images.shape == expected.shape == (1, run.side, run.side, 3)
    assert expected.std() > 20, "the test can tell images apart"
    assert np.abs(images - expected).max() <= TOLERANCE


PIPELINES = ("demo-text", "flux", "sd3-without-t5")


@pytest.mark.slow
@pytest.mark.parametrize("side", ["dense", "compressed"])
@pytest.mark.parametrize("name", PIPELINES)
def test_openvino_genai_makes_the_images_of_torch(exported, tmp_path, name, side):
    """Its TorchGenerator draws torch's noise for a seed; f32, since a CPU may else take bf16."""
    genai = pytest.importorskip("openvino_genai")
    pytest.importorskip("openvino_tokenizers")
    run = exported(name)
    written = write_layout(run.out, "openvino", side=side, to=tmp_path / side)
    assert "Text2ImagePipeline" in written.usage
    pipe = genai.Text2ImagePipeline(str(written.folder), "CPU", INFERENCE_PRECISION_HINT="f32")
    images = pipe.generate(
        PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
        generator=genai.TorchGenerator(SEED), height=run.side, width=run.side,
    )  # fmt: skip
    judge(np.array(images.data, np.float64), run, side)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["dense", "compressed"])
@pytest.mark.parametrize("name", PIPELINES)
def test_optimum_makes_the_images_of_torch(exported, tmp_path, name, side):
    python = os.environ.get(OPTIMUM_PYTHON)
    if not python:
        pytest.skip(f"{OPTIMUM_PYTHON} names no interpreter with optimum-onnx")
    run = exported(name)
    written = write_layout(run.out, "optimum", side=side, to=tmp_path / side)
    goal = tmp_path / "images.npy"
    values = map(str, (written.folder, PROMPT, STEPS, GUIDANCE, SEED, run.side, goal))
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-c", ASK_OPTIMUM, *values], check=True, timeout=500, env=alone)
    judge(255 * np.load(goal).astype(np.float64), run, side)


def test_a_shift_for_one_size_gives_the_noise_levels_of_the_pipeline(tmp_path):
    """OpenVINO GenAI has a formula of its own for a shift that depends on the size."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    folder, out = tmp_path / "model", tmp_path / "out"
    save_flux(folder)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    (out / "onnx" / "dense").mkdir(parents=True)
    sample = {"name": "sample", "shape": [2, 8, 12], "kind": "sample"}
    (out / "onnx" / "dense" / "model.json").write_text(json.dumps({"inputs": [sample]}))
    part = next(one for one in find_source(folder).components if one.name == "scheduler")
    sigmas, levels = np.linspace(1, 1 / STEPS, STEPS), {}
    for name, layout in LAYOUTS.items():
        (tmp_path / name).mkdir()
        PipelineWriter(layout, find_source(folder), out, "dense")._copy_files(part, tmp_path / name)
        read = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / name)
        dynamic = read.config.use_dynamic_shifting
        assert dynamic == (name == "optimum")
        read.set_timesteps(sigmas=sigmas, mu=calculate_shift(24) if dynamic else None)
        levels[name] = read.sigmas.numpy()
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(24))
    assert np.array_equal(levels["optimum"], scheduler.sigmas.numpy())
    np.testing.assert_allclose(levels["openvino"], scheduler.sigmas.numpy(), rtol=1e-5)


def test_the_vaes_encoder_takes_every_size_that_the_one_of_out_takes(tmp_path):
    """Image-to-image begins with it; it was exported anew, of the first size alone."""
    ort = pytest.importorskip("onnxruntime")
    out, new = tmp_path / "out" / "onnx", tmp_path / "new"
    SAVERS["sd"](tmp_path / "model")
    source = find_source(tmp_path / "model")
    writer = PipelineWriter(LAYOUTS["optimum"], source, out.parent, "dense")
    _halving_graph(out / "decoder" / "model.onnx")
    with pytest.raises(InputError, match="encoder holds no exported model"):
        writer.check()
    _halving_graph(out / "encoder" / "model.onnx")
    writer.check()
    writer._write_vae(new)
    encoder = ort.InferenceSession(new / "vae_encoder" / "model.onnx")
    assert [value.name for value in encoder.get_outputs()] == ["latent_parameters"]
    for size in ((4, 4), (8, 2)):
        (values,) = encoder.run(None, {"sample": np.ones((1, 3, *size), np.float32)})
        assert values.shape == (1, 3, size[0] // 2, size[1] // 2)
    assert json.loads((new / "vae_encoder" / "config.json").read_text())["scaling_factor"] > 0


def _halving_graph(path: Path) -> None:
    """The mean of every 2x2 pixels, of images of any size."""
    from onnx import TensorProto, helper, save

    path.parent.mkdir(parents=True)
    path.with_name("model.json").write_text('{"inputs": [], "opset": 20}')
    names = {"sample": "", "out_sample": "half_"}
    shapes = [(name, ["batch", 3, f"{of}height", f"{of}width"]) for name, of in names.items()]
    given, halved = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes)
    pool = helper.make_node(
        "AveragePool", [given.name], [halved.name], kernel_shape=[2, 2], strides=[2, 2]
    )
    graph = helper.make_graph([pool], "halves", [given], [halved])
    opset = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def test_a_text_may_end_before_its_zeros(tmp_path):
    """Stable Diffusion 3 without T5: 77 rows of zeros in some libraries, 256 in others."""
    ort = pytest.importorskip("onnxruntime")
    goal = tmp_path / "called.onnx"
    plain = _toy_graph(tmp_path / "toy.onnx", with_text=True)
    call = PipelineCall(places=("img_ids",))
    write_called(plain, call, goal, scalar_timestep=True, zero_ended=["text"])
    called = ort.InferenceSession(goal)
    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((2, 3, 4, 6), np.float32),
        "timestep": np.array([2], np.float32),
        "img_ids": np.zeros((24, 3), np.float32),
    }
    text = rng.standard_normal((2, 3, 2), np.float32)
    whole = np.concatenate([text, np.zeros((2, 2, 2), np.float32)], 1)
    assert np.array_equal(*(called.run(None, {**inputs, "text": one})[1] for one in (text, whole)))
    assert np.array_equal(called.run(None, {**inputs, "text": text})[1], whole)


def test_every_layout_says_who_reads_it():
    for name, layout in LAYOUTS.items():
        assert layout.name == name and layout.readers
        assert "StableDiffusionPipeline" in layout.pipelines
        assert "'there'" in layout.usage(Path("there"), "StableDiffusionPipeline")


def test_a_written_layout_is_json():
    from diffc.layouts.write import WrittenLayout

    written = WrittenLayout(Path("to"), "optimum", "optimum-onnx", "dense", "P", "open()", ("a",))
    assert json.loads(json.dumps(written.to_json()))["folder"] == "to"
