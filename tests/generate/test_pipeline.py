"""diffc.pipeline: the pictures that the report judged, by an engine and by torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.pipelines import save_ddpm
from support.runs import compile_quickly

import diffc
from diffc.bundle.contents import loras_folder
from diffc.data.labels import LABEL, drawn_label
from diffc.data.randomness import keyed_generator
from diffc.errors import DiffcError, InputError, RequestError, UnavailableError
from diffc.models.families import family
from diffc.output import engine_folder
from diffc.report.verdict import summary
from diffc_runtime import Pipeline

CELL, GAP = 96, 4
"""samples/*.png: pictures of so many pixels, and the gap between them."""


@pytest.fixture(scope="module")
def out(compiled) -> Path:
    """The tiny model's output folder: ort-cpu engines, four judged pictures, two steps."""
    return compiled[0]


def judged(out: Path, side: str, n: int) -> np.ndarray:
    """The first n pictures of OUT/samples/SIDE.png, (N, 16, 16) in 0..255."""
    sheet = np.asarray(Image.open(out / "samples" / f"{side}.png").convert("L")).astype(int)
    factor = CELL // 16
    cells = [sheet[:CELL, i * (CELL + GAP) : i * (CELL + GAP) + CELL] for i in range(n)]
    return np.stack([cell[factor // 2 :: factor, factor // 2 :: factor] for cell in cells])


def greys(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("target", ["ort-cpu", "torch"])
@pytest.mark.parametrize("side", ["dense", "compressed"])
def test_the_pictures_are_those_that_the_report_judged(out, target, side):
    """By default: the report's sampler, steps and noise; PIL images that can be saved."""
    images = diffc.pipeline(out, side=side, target=target)(n=4, seed=0).images
    assert isinstance(images[0], Image.Image) and len(images) == 4
    expected = judged(out, side, 4)
    assert expected.std() > 10
    assert np.abs(greys(images) - expected).max() <= 1
    assert np.abs(greys(images)[::-1] - expected).max() > 20, "the test can tell images apart"


def test_the_engine_that_runs_here_is_taken_and_named(out):
    pipe = diffc.pipeline(str(out))
    assert isinstance(pipe, Pipeline) and pipe.runs_on == "ort-cpu fp32"
    assert (pipe.defaults.steps, pipe.scheduler_name) == (2, "ddim")
    assert diffc.pipeline(out, device="cpu", dtype="fp32").runs_on == "ort-cpu fp32"
    assert diffc.pipeline(out, dtype="bf16").runs_on == "torch bf16 on cpu"


def test_its_repr_is_one_short_line(out):
    shown = repr(diffc.pipeline(out))
    assert shown == "<Pipeline: ort-cpu fp32, 16x16, ddim, 2 steps>"


def test_a_reports_repr_is_the_line_that_ends_a_run(out):
    report = diffc.Report.read(out)
    assert repr(report) == str(report) == f"<Report of {summary(report)}>"


def test_without_an_engine_for_here_torch_runs_the_model_and_says_why(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "OUT")
    for path in copy.glob("engines/ort-cpu/*/engine.json"):
        info = json.loads(path.read_text())
        device = {"compute_capability": "8.9"}
        path.write_text(json.dumps({**info, "device": device, "tied_to": list(device)}))
    with pytest.warns(UserWarning, match=r"no engine of .* runs here \(ort-cpu: .*8\.9.*\): torch"):
        pipe = diffc.pipeline(copy)
    assert pipe.runs_on == "torch fp32 on cpu"
    with pytest.raises(UnavailableError, match="the engine for 'ort-cpu' cannot be used"):
        diffc.pipeline(copy, target="ort-cpu")


def test_an_engine_runs_without_torch_or_diffusers(out):
    code = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers'): sys.modules[name] = None\n"
        "import diffc\n"
        "pipe = diffc.pipeline(sys.argv[1])\n"
        "print(pipe.runs_on, pipe(num_inference_steps=1).images[0].size)\n"
    )
    command = [sys.executable, "-c", code, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "ort-cpu fp32 (16, 16)\n", done.stderr


def test_arrays_are_diffusers_own_and_the_pictures_the_same(out):
    pipe = diffc.pipeline(out)
    array = pipe(n=3, seed=5, output_type="np").images
    assert array.shape == (3, 16, 16, 1) and array.dtype == np.float32
    assert 0 <= array.min() < array.max() <= 1
    pixels = greys(pipe(n=3, seed=5).images)
    assert np.abs(pixels - array[..., 0] * 255).max() <= 0.5 + 1e-4


def test_a_bundles_pictures_are_the_reports_too(out, tmp_path):
    from diffc.bundle.build import write_bundle

    write_bundle(out, tmp_path / "bundle", server="none")
    pipe = diffc.pipeline(tmp_path / "bundle")
    assert np.abs(greys(pipe(n=4).images) - judged(out, "compressed", 4)).max() <= 1
    with pytest.raises(RequestError, match="a bundle with one engine, for 'ort-cpu'"):
        diffc.pipeline(tmp_path / "bundle", side="dense")
    assert diffc.pipeline(tmp_path / "bundle", device="cpu", dtype="fp32").runs_on == pipe.runs_on
    for name, wish in {"device": "cuda", "dtype": "bf16"}.items():
        with pytest.raises(UnavailableError, match=f"its engine, ort-cpu fp32, is not {wish}"):
            diffc.pipeline(tmp_path / "bundle", **{name: wish})


@pytest.mark.parametrize(
    ("wishes", "error", "says"),
    [
        ({"target": "ort-cppu"}, RequestError, "unknown target 'ort-cppu'"),
        ({"target": "trt"}, RequestError, "unknown target 'trt'"),
        ({"side": "pruned"}, RequestError, "unknown side 'pruned'"),
        ({"device": "tpu"}, RequestError, "unknown device 'tpu'"),
        ({"dtype": "float16"}, RequestError, "unknown dtype 'float16'"),
        ({"target": "ort-cpu", "device": "cuda"}, UnavailableError, "it is not cuda"),
        ({"target": "ort-cpu", "dtype": "fp16"}, UnavailableError, "it is not fp16"),
        ({"target": "torch", "device": "cuda"}, UnavailableError, "no NVIDIA GPU here"),
        ({"side": None}, RequestError, "unknown side None"),
        ({"side": ["dense"]}, RequestError, r"unknown side \['dense'\]"),
        ({"device": torch.device("cpu")}, RequestError, "unknown device device"),
        ({"dtype": torch.float16}, RequestError, "unknown dtype torch.float16"),
        ({"dtype": np.zeros((50, 50))}, RequestError, "unknown dtype array"),
        ({"target": 1}, RequestError, "target is the name of one, such as 'ort-cpu', not 1"),
        ({"target": np.zeros((50, 50))}, RequestError, "target is the name of one"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(out, wishes, error, says):
    if wishes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(error, match=says) as caught:
        diffc.pipeline(out, **wishes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"n": 0}, "the number of images, must be a whole number from 1 to 1024, not 0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"num_inference_steps": 1001}, "steps must be a whole number from 1 to 1000, not 1001"),
        ({"num_inference_steps": 0}, "not 0"),
        ({"output_type": "pt"}, "output_type must be one of pil, np, not 'pt'"),
        ({"scheduler": "plms"}, "unknown scheduler 'plms'"),
        ({"guidance_scale": 3.0}, "needs a model with conditions"),
        ({"class_labels": 1}, "unknown condition 'class_labels'"),
    ],
)
def test_a_wrong_request_is_one_line(out, request_, says):
    with pytest.raises(DiffcError, match=says) as caught:
        diffc.pipeline(out)(**request_)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_folder_that_is_no_run_and_an_unfinished_one(out, tmp_path):
    with pytest.raises(InputError, match="holds no run of diffc") as caught:
        diffc.pipeline(tmp_path)
    assert "diffc.load" in caught.value.hint
    copy = shutil.copytree(out, tmp_path / "OUT")
    shutil.rmtree(copy / "engines"), shutil.rmtree(copy / "model")
    with pytest.raises(InputError, match="is unfinished: it holds no compressed model yet"):
        diffc.pipeline(copy)


def test_labels_are_those_that_torch_draws():
    """PyTorch's own generator is the oracle: stages that were done before drew with it."""
    for classes in (2, 10, 1000):
        for key in ((0, 0), (3, 17), (2**40, 5)):
            generator = keyed_generator(key[0], LABEL, key[1])
            expected = int(torch.randint(classes, (), generator=generator))
            assert drawn_label(*key, classes) == expected


@pytest.mark.parametrize("folder", [None, 3, b"OUT", ["OUT"]])
def test_what_is_no_path_is_one_line(folder):
    with pytest.raises(RequestError, match=r"a path is a text or a pathlib\.Path, not "):
        diffc.pipeline(folder)


def test_a_folder_that_was_named_from_another_one_stays_it(out, tmp_path, monkeypatch):
    """LoRAs, text encoders and conditions are read later, when the program may be elsewhere."""
    copy = shutil.copytree(out, tmp_path / "OUT")
    engine = engine_folder(copy, "ort-cpu", "compressed")
    loras_folder(engine).mkdir(parents=True)
    (loras_folder(engine) / "style.npz").touch()
    monkeypatch.chdir(tmp_path)
    pipe = diffc.pipeline("OUT")
    assert pipe.loras is not None
    monkeypatch.chdir("/")
    assert pipe.loras.names == ["style"]


# Conditions ---------------------------------------------------------------------------------------


def test_labels_go_up_to_the_last_class_or_the_null_class():
    count = family("UNet2DModel").condition_values
    assert count({"num_class_embeds": 4}) == {"class_labels": 4} and count({}) == {}
    of_dit = family("DiTTransformer2DModel").condition_values
    assert of_dit({"num_embeds_ada_norm": 10}) == {"class_labels": 11}


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    """A model of four classes to the end of distillation: torch has to run it."""
    folder = tmp_path_factory.mktemp("classes")
    model = save_ddpm(folder / "model", num_class_embeds=4)
    compile_quickly(model, folder / "OUT")
    return folder / "OUT"


def test_without_labels_the_pictures_are_the_reports(conditional):
    pipe = diffc.pipeline(conditional)
    assert pipe.runs_on == "torch fp32 on cpu"
    images = greys(pipe(n=4, seed=0).images)
    assert np.abs(images - judged(conditional, "compressed", 4)).max() <= 1


def test_the_callers_autocast_changes_nothing(conditional):
    pipe = diffc.pipeline(conditional)
    alone = pipe(class_labels=1, output_type="np").images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pipe(class_labels=1, output_type="np").images
    np.testing.assert_array_equal(inside, alone)


def test_labels_count_the_images(conditional):
    pipe = diffc.pipeline(conditional)
    images = greys(pipe(class_labels=[3, 1, 3], seed=2).images)
    assert len(images) == 3
    alone = greys(pipe(class_labels=3, seed=2).images)
    np.testing.assert_array_equal(images[0], alone[0])
    assert np.abs(images[0] - greys(pipe(class_labels=0, seed=2).images)[0]).max() > 0
    with pytest.raises(DiffcError, match="'class_labels' must be whole numbers"):
        pipe(class_labels=[0.5])
    with pytest.raises(DiffcError, match=r"'class_labels' must have shape \(2,\) or \(\)"):
        pipe(class_labels=[1, 2, 3], n=2)
    for label in (-1, 4, 10**6):
        with pytest.raises(DiffcError, match=f"must be from 0 to 3, not {label}"):
            pipe(class_labels=label)
