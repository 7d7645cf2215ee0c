"""torch as a target: the very model, through the same seam as the engines."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.onnx_folder import SCHEDULER, tiny_unet, write_handmade_folder

from diffc.errors import InputError, RequestError, UnavailableError
from diffc.generate.torch_model import torch_call
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.torch_target import Captured, TorchEngine
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny UNet as a diffusers folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_unet().save_pretrained(folder)
    return str(folder)


def rows(unet_folder):
    reference = load_file(unet_folder / "reference.safetensors")
    return {name: reference[f"input.{name}"] for name in ("sample", "timestep")}, reference


def built(unet_folder, model, out, **options):
    options = BuildOptions(**{"batch": (4,), "model": model, "threads": 1, **options})
    return drain(target("torch").build(unet_folder, options, out))


def test_it_computes_the_reference(unet_folder, model, tmp_path):
    info = built(unet_folder, model, tmp_path / "e")
    runner = target("torch").load(tmp_path / "e")
    inputs, reference = rows(unet_folder)
    np.testing.assert_allclose(runner(inputs)["out_sample"], reference["output"], atol=1e-6)
    again = {
        **inputs,
        "sample": inputs["sample"][::-1].copy(),
        "timestep": inputs["timestep"][::-1].copy(),
    }
    np.testing.assert_allclose(runner(again)["out_sample"], reference["output"][::-1], atol=1e-6)
    np.testing.assert_allclose(runner(inputs)["out_sample"], reference["output"], atol=1e-6)
    assert runner.bind(inputs).run() > 0
    assert info.engine_bytes == Path(model, "diffusion_pytorch_model.safetensors").stat().st_size
    assert runner.allocator_bytes() is None or torch.cuda.is_available()


def test_several_resolutions_in_turn(model, tmp_path):
    """What a size's buffers hold is no other's; the shapes are those of the ONNX folder."""
    folder = write_handmade_folder(tmp_path / "onnx", others=((16, 16),))
    built(folder, model, tmp_path / "e", batch=(2,))
    runner, network = target("torch").load(tmp_path / "e"), tiny_unet()
    generator = torch.Generator().manual_seed(0)
    for side in (8, 16, 8, 16):
        sample, timestep = torch.randn(2, 1, side, side, generator=generator), torch.tensor([9, 99])
        with torch.no_grad():
            expected = network(sample, timestep).sample.numpy()
        found = runner({"sample": sample.numpy(), "timestep": timestep.numpy()})
        np.testing.assert_allclose(found["out_sample"], expected, atol=1e-6)
    with pytest.raises(InputError, match="not built for batch 2 at 12x12"):
        sample = np.zeros((2, 1, 12, 12), np.float32)
        runner({"sample": sample, "timestep": timestep.numpy()})


def test_half_precision_is_half(unet_folder, model, tmp_path):
    built(unet_folder, model, tmp_path / "e", precision="bf16")
    inputs, reference = rows(unet_folder)
    error = np.linalg.norm(
        target("torch").load(tmp_path / "e")(inputs)["out_sample"] - reference["output"]
    )
    assert 1e-4 < error / np.linalg.norm(reference["output"]) < 5e-2


TIMES = [981.5, 621, 301, 999]
"""bf16 has every fourth of the whole ones above 512 alone."""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_takes_the_whole_timestep(unet_folder, model, tmp_path, dtype):
    """As diffusers' pipelines give it: the network computes its waves in float32."""
    half = getattr(torch, dtype)
    info = built(
        unet_folder, model, tmp_path / "e", precision={"float16": "fp16"}.get(dtype, "bf16")
    )
    inputs = tuple(replace(one, dtype="float32") for one in info.inputs)
    sample, times = torch.randn(4, 1, 8, 8), torch.tensor(TIMES)
    network = torch.nn.Module.to(tiny_unet(), half)
    with torch.no_grad():
        expected = network(sample.to(half), times).sample.float().numpy()
    given = {"sample": sample.numpy(), "timestep": times.numpy()}
    engine = TorchEngine(tiny_unet(), replace(info, inputs=inputs), 1)
    assert np.array_equal(engine(given)["out_sample"], expected)
    other = denoiser_of(network, family("UNet2DModel"), SCHEDULER)
    assert np.array_equal(torch_call(other, torch.device("cpu"))(given), expected)


@pytest.fixture
def tf32():
    """TF32 is allowed, and afterwards as it was."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def test_fp32_is_not_tf32(unet_folder, model, tmp_path, tf32):
    built(unet_folder, model, tmp_path / "e")
    runner = target("torch").load(tmp_path / "e")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    timed_by = "GPU events" if torch.cuda.is_available() else "clock"
    assert runner.info.details["timed_by"] == timed_by


def test_a_model_that_was_altered_is_refused(unet_folder, tmp_path):
    folder = tmp_path / "model"
    tiny_unet().save_pretrained(folder)
    built(unet_folder, str(folder), tmp_path / "e")
    tiny_unet(seed=1).save_pretrained(folder)
    with pytest.raises(InputError, match="was cut or altered since"):
        target("torch").load(tmp_path / "e")


def test_a_graph_needs_a_gpu(unet_folder, model, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    built(unet_folder, model, tmp_path / "e", variant="graphs")
    with pytest.raises(UnavailableError, match="CUDA graphs need an NVIDIA GPU"):
        target("torch").load(tmp_path / "e")


def test_a_graph_is_captured_once_after_a_warm_up_and_then_replayed(monkeypatch):
    """With a stand-in for torch.cuda: what is called, and in which order."""
    said = []

    class Graph:
        def replay(self):
            said.append("replay")

    @contextmanager
    def block(name):
        said.append(f"{name} begins")
        yield
        said.append(f"{name} ends")

    class Stream:
        def wait_stream(self, other):
            said.append("wait")

    fake = SimpleNamespace(
        Stream=Stream, current_stream=Stream, CUDAGraph=Graph,
        stream=lambda s: block("side stream"), graph=lambda g: block("capture"),
    )  # fmt: skip
    monkeypatch.setattr(torch, "cuda", fake)
    captured = Captured(lambda: said.append("call") or "output")
    assert [captured(), captured()] == ["output", "output"]
    warm = ["wait", "side stream begins", *["call"] * 3, "side stream ends", "wait"]
    assert said == [*warm, "capture begins", "call", "capture ends", "replay", "replay"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_computes_the_same(unet_folder, model, tmp_path):
    built(unet_folder, model, tmp_path / "e", variant="compiled")
    inputs, reference = rows(unet_folder)
    found = target("torch").load(tmp_path / "e")(inputs)["out_sample"]
    np.testing.assert_allclose(found, reference["output"], atol=1e-5)


@pytest.mark.slow
def test_a_missing_compiler_is_one_line(unet_folder, model, tmp_path):
    script = (
        "import sys, numpy as np; from diffc_export.targets import target\n"
        "from diffc.errors import UnavailableError\n"
        "try: target('torch').load(__import__('pathlib').Path(sys.argv[1]))\n"
        "except UnavailableError as error: print(error)\n"
    )
    built(unet_folder, model, tmp_path / "e", variant="compiled")
    env = {**os.environ, "CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "e")],
                          capture_output=True, text=True, env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.compile does not work here" in done.stdout and done.stdout.count("\n") == 1


def test_model_is_found_beside_the_compressed_onnx_folder(folder, tmp_path):
    out = tmp_path / "OUT"
    (out / "onnx").mkdir(parents=True)
    tiny_unet().save_pretrained(out / "model")
    moved = folder.rename(out / "onnx" / "compressed")
    info = drain(target("torch").build(moved, BuildOptions(), tmp_path / "e"))
    assert info.details["model"] == str(out / "model") and info.details["variant"] == "eager"


def test_model_that_cannot_be_told_must_be_given(folder, tmp_path):
    with pytest.raises(RequestError, match="cannot tell the torch model"):
        drain(target("torch").build(folder, BuildOptions(), tmp_path / "e"))


def test_model_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        options = BuildOptions(model=str(tmp_path / "nowhere"))
        drain(target("torch").build(folder, options, tmp_path / "e"))


def test_precision_that_torch_does_not_compute_in(folder, tmp_path):
    with pytest.raises(InputError, match="is fp32, int8 was asked for"):
        drain(target("torch").build(folder, BuildOptions(precision="int8", model="x"), tmp_path))


def test_unknown_variant_names_the_known(folder, tmp_path):
    with pytest.raises(RequestError, match="unknown variant of torch 'compild'") as caught:
        drain(
            target("torch").build(
                folder, BuildOptions(model="x", variant="compild"), tmp_path / "e"
            )
        )
    assert "compiled" in caught.value.hint
