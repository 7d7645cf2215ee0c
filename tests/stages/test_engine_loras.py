"""LoRAs that a call picks by name: torch with the changed weights is the oracle."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command import diffc_in_process
from support.loras import kohya_names, peft_names, random_pairs, save_lora
from support.shared import copy_once

import diffc
from diffc.bundle.build import write_bundle
from diffc.errors import InputError
from diffc.models.load import load_denoiser
from diffc.models.loras.files import find_lora, with_loras
from diffc.models.source import find_source
from diffc.output import locked_recipe
from diffc.prune.lora import fuse_cut
from diffc.prune.plan import Plan
from diffc.stage_inputs import RunShape
from diffc.stages.engine_loras import adapt_to_engines
from diffc_runtime import BadRequest, UnfitEngine
from diffc_runtime.loras import MOST_OPEN, EngineLoras, find_weight, read_lora

TARGETS = ("ort-cpu", "openvino")
SIDES = ("dense", "compressed")


@pytest.fixture(scope="session")
def files(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Two LoRAs of every layer of the tiny model, of different ranks."""
    folder = tmp_path_factory.mktemp("loras")
    model = load_denoiser(find_source(tiny_model))
    first = peft_names(random_pairs(model, 1), "unet.")
    second = kohya_names(random_pairs(model, 2, rank=5), alpha=2.0)
    return {
        "first": save_lora(first, folder / "first.safetensors"),
        "second": save_lora(second, folder / "second.safetensors"),
    }


@pytest.fixture(scope="session")
def out(compiled, files, tmp_path_factory) -> Path:
    """OUT with engines of two targets, which take both LoRAs."""

    def make(folder: Path) -> None:
        import shutil

        shutil.copytree(compiled[0], folder / "run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIFFC_CACHE", str(compiled[2]))
            built = diffc_in_process(
                "build", folder / "run", "--target", ",".join(TARGETS), "--quiet"
            )
            assert built.returncode == 0, built.stderr
            for name, weight in (("first", 1), ("second", -2)):
                result = diffc_in_process(
                    "adapt", f"{files[name]}:{weight}", folder / "run", "--engines", "--json"
                )
                assert result.returncode == 0, result.stderr
                rows = json.loads(result.stdout)["engines"]
                assert {(row["target"], row["side"]) for row in rows} == {
                    (target, side) for target in TARGETS for side in SIDES
                }
                assert all(row["reason"] == "" and row["layers"] > 10 for row in rows)

    return copy_once(tmp_path_factory, "engine-loras", make) / "run"


def fused(out: Path, tiny_model: Path, side: str, text: str) -> torch.nn.Module:
    """The network of one side with a LoRA in its weights, in torch."""
    if side == "dense":
        return load_denoiser(with_loras(find_source(tiny_model), [text]))
    model = load_denoiser(find_source(out / "model"))
    source = with_loras(find_source(tiny_model), [], [text])
    specs = RunShape.of(locked_recipe(out)).specs(source)
    fuse_cut(model, source, specs, Plan.read(out / "plan.json"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("side", SIDES)
def test_the_engine_computes_what_torch_does_with_the_changed_weights(
    out, tiny_model, files, side, target
):
    pipe = diffc.pipeline(out, side=side, target=target)
    x = np.random.default_rng(0).standard_normal((1, *pipe.sample_shape)).astype(np.float32)
    time = np.array([250])
    call = {spec.name: x if spec.kind == "sample" else time for spec in pipe.inputs}
    call = {s.name: call[s.name].astype(s.dtype) for s in pipe.inputs}
    before = pipe.denoise(call)
    for name, weight in (("first", 1), ("second", -2)):
        network = fused(out, tiny_model, side, f"{files[name]}:{weight}")
        with torch.no_grad():
            expected = network(torch.from_numpy(x), torch.from_numpy(time)).sample.numpy()
        output = pipe.with_lora(name).denoise(call)
        np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
        assert np.abs(output - before).max() > 1e-2 * np.abs(before).max(), "the LoRA counts"
    np.testing.assert_array_equal(pipe.denoise(call), before)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_b_a_and_none_give_the_same_bits(out, target):
    pipe = diffc.pipeline(out, target=target)
    images = {}
    for name in (None, "first", "second", "first", None, "second"):
        samples = pipe.sample(seed=3, num_inference_steps=2, lora=name)
        np.testing.assert_array_equal(samples, images.setdefault(name, samples))
    assert len({samples.tobytes() for samples in images.values()}) == 3
    other = diffc.pipeline(out, target=target)
    np.testing.assert_array_equal(
        other.sample(seed=3, num_inference_steps=2, lora="second"), images["second"]
    )


@pytest.mark.slow
def test_it_is_the_engine_that_build_fuses(out, files, compiled, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("DIFFC_CACHE", str(compiled[2]))
    copy = shutil.copytree(out, tmp_path / "run")
    result = diffc_in_process("build", copy, "--lora", f"{files['second']}:-2", "--quiet")
    assert result.returncode == 0, result.stderr
    for side in SIDES:
        ours = diffc.pipeline(out, side=side, target="ort-cpu")
        samples = ours.sample(seed=3, num_inference_steps=3, lora="second")
        pipe = diffc.pipeline(copy, side=side, target="ort-cpu")
        built = pipe.sample(seed=3, num_inference_steps=3)
        np.testing.assert_allclose(samples, built, atol=1e-4, rtol=0)
        # the engine is another one now: what was adapted to the old one is refused
        with pytest.raises(UnfitEngine, match="is of another engine"):
            pipe.sample(lora="second")


def test_images_by_the_command_and_by_a_bundle_without_torch(out, tmp_path):
    options = ["--seed", "3", "--steps", "2", "--force"]
    result = diffc_in_process(
        "generate", out, "--target", "ort-cpu", "--lora", "first", "--out", tmp_path / "a.npy",
        *options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    by_command = np.load(tmp_path / "a.npy")
    write_bundle(out, tmp_path / "bundle", server="none", target="ort-cpu")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = ["generate", *options, "--threads", "1", "--out", str(tmp_path / "b.npy")]
    for more, expected in ((["--lora", "first"], by_command), ([], None)):
        run = subprocess.run(
            [sys.executable, str(tmp_path / "bundle"), *words, *more],
            capture_output=True, text=True, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        close = np.abs(np.load(tmp_path / "b.npy") - by_command).max() < 1e-4
        assert close == (expected is not None)


def test_an_unknown_name_lists_those_that_are_there(out, compiled):
    pipe = diffc.pipeline(out, target="ort-cpu")
    with pytest.raises(BadRequest, match="unknown LoRA 'third': there are first, second"):
        pipe(lora="third")
    with pytest.raises(BadRequest, match=r"unknown LoRA '\.\./first'"):
        pipe(lora="../first")
    with pytest.raises(BadRequest, match=r"unknown LoRA 7"):
        pipe(lora=7)
    with pytest.raises(BadRequest, match=r"there is none .diffc adapt LORA OUT --engines adds one"):
        diffc.pipeline(compiled[0], target="ort-cpu")(lora="first")
    with pytest.raises(BadRequest, match=r"what runs here \(torch.*\) takes none"):
        diffc.pipeline(out, target="torch")(lora="first")


def test_what_cannot_be_adapted_is_refused_before_anything_is_written(out, files, tmp_path):
    def refusal(*more: object) -> str:
        result = diffc_in_process("adapt", *more, "--engines")
        assert result.returncode == 2, result.stdout
        return result.stderr

    before = sorted(out.rglob("*.npz"))
    assert "is there already" in refusal(files["first"], out)
    assert "cannot be a LoRA's name" in refusal(files["first"], out, "--name", "../x")
    assert "--out has no effect" in refusal(files["first"], out, "--out", tmp_path / "x")
    narrow = peft_names({"conv_in": (torch.ones(2, 5, 3, 3), torch.ones(7, 2, 1, 1))}, "unet.")
    wrong = save_lora(narrow, tmp_path / "narrow.safetensors")
    assert "is of another base model: it changes conv_in" in refusal(wrong, out)
    text = {"text_encoder.layer.lora_A.weight": torch.ones(1, 2)}
    assert "changes text_encoder" in refusal(save_lora(text, tmp_path / "text.safetensors"), out)
    assert sorted(out.rglob("*.npz")) == before


def test_an_engine_without_its_weights_in_fp32_takes_none(out, files, tmp_path):
    """Its file holds other numbers than the network: nothing is changed by guess."""
    import shutil

    copy = shutil.copytree(out, tmp_path / "run", ignore=shutil.ignore_patterns("*.npz"))
    network = load_denoiser(find_source(copy / "model"))
    with torch.no_grad():
        network.conv_in.weight += 1e-3
    network.save_pretrained(copy / "model" / "unet")
    for target in TARGETS:
        shutil.rmtree(copy / "engines" / target / "dense")
    with pytest.raises(InputError, match=r"no engine .* does not hold the weight of conv_in as"):
        adapt_to_engines(find_lora(str(files["first"])), copy, "first", force=False)


def test_damaged_files_are_refused(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "compressed"
    good = (out / "engines/ort-cpu/loras/compressed/first.npz").read_bytes()
    path = tmp_path / "bad.npz"
    loras = EngineLoras(engine, tmp_path, 1)
    for content in (b"", b"no archive", good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(UnfitEngine, match="is damaged"):
            loras.denoise("bad")
    with np.load(out / "engines/ort-cpu/loras/compressed/first.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(str(arrays["about"]))
    size = (engine / "model.onnx").stat().st_size
    for place in (["x", "model.onnx", size - 4, 3, 3], ["x", "../engine.json", 0, 3, 3]):
        changed = {**about, "places": [place]}
        left = {"left.0": np.ones((3, 1), np.float32), "right.0": np.ones((1, 3), np.float32)}
        np.savez(path, about=np.array(json.dumps(changed)), **left)
        with pytest.raises(UnfitEngine, match="is damaged"):
            loras.denoise("bad")
    np.savez(path, about=np.array(json.dumps({**about, "format": 9})))
    with pytest.raises(UnfitEngine, match="format 9"):
        loras.denoise("bad")
    assert zipfile.is_zipfile(path)


def test_a_full_disk_is_one_line_and_nothing_stays_on_it(out, tmp_path, monkeypatch):
    engine = out / "engines" / "ort-cpu" / "compressed"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(source, goal):
        Path(goal).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    loras = EngineLoras(engine, out / "engines/ort-cpu/loras/compressed", 1)
    with pytest.raises(UnfitEngine, match=r"for the LoRA 'first' to .*\(TMPDIR\): No space left"):
        loras.denoise("first")
    gc.collect()
    assert not any(tmp_path.iterdir())


def test_no_more_than_a_few_engines_stay_open(out, tmp_path):
    engine = out / "engines" / "ort-cpu" / "compressed"
    file = out / "engines/ort-cpu/loras/compressed/first.npz"
    for i in range(MOST_OPEN + 2):
        (tmp_path / f"n{i}.npz").write_bytes(file.read_bytes())
    loras = EngineLoras(engine, tmp_path, 1)
    first = loras.denoise("n0")
    assert loras.denoise("n0") is first
    for name in loras.names:
        loras.denoise(name)
    assert loras.denoise("n0") is not first
    assert read_lora(file).files.keys() == {"model.onnx"}


def test_a_weight_is_found_as_it_lies():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, 30)).astype("<f4")
    decoy = weight.copy()
    decoy[-1, -1] += 1  # begins as the weight does
    content = b"abc" + decoy.tobytes() + b"x" + weight.tobytes()
    assert find_weight(content, weight) == (3 + decoy.nbytes + 1, False)
    assert find_weight(content, weight, near=10_000) == (3 + decoy.nbytes + 1, False)
    assert find_weight(content, weight.T) == (3 + decoy.nbytes + 1, True)
    assert find_weight(content, weight + 1) is None
