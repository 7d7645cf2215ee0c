"""Runs with LoRAs: fused before the compression, after it, and adapted for OUT/model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.command import diffc_in_process
from support.loras import clip_state, kohya_names, peft_names, random_pairs, save_lora
from support.pipelines import save_sd
from support.quick import QUICK
from support.shared import copy_once

import diffc
from diffc.errors import InputError, RequestError
from diffc.follows import check_model, check_onnx
from diffc.models.load import load_denoiser
from diffc.models.loras.files import with_loras
from diffc.models.source import find_source
from diffc.output import locked_recipe, read_lock
from diffc.prune.plan import Plan
from diffc.prune.surgery import cut
from diffc.stages.order import run, source_of
from diffc.stages.request import Request
from diffc_export.events import drain

UNTRAINED = {**QUICK, "distill": {"steps": 0}, "repair": {"mode": "off"}}


def weights(folder: Path):
    return {name: v.clone() for name, v in load_denoiser(find_source(folder)).state_dict().items()}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.fixture(scope="session")
def loras(tiny_model, tmp_path_factory):
    """Two LoRAs of the tiny model, in both namings."""
    folder = tmp_path_factory.mktemp("loras")
    model = load_denoiser(find_source(tiny_model))
    first = peft_names(random_pairs(model, 1), "unet.")
    second = kohya_names(random_pairs(model, 2, rank=2), alpha=1.0)
    return (
        save_lora(first, folder / "first.safetensors"),
        save_lora(second, folder / "second.safetensors"),
    )


@pytest.fixture
def own(compiled, tmp_path, monkeypatch):
    """A copy of the compiled folder, with its cache."""
    monkeypatch.setenv("DIFFC_CACHE", str(compiled[2]))
    return shutil.copytree(compiled[0], tmp_path / "run")


@pytest.mark.slow
def test_a_lora_before_the_compression_is_a_model_of_its_own(tiny_model, loras, tmp_path):
    out = tmp_path / "run"
    flags = {**UNTRAINED, "loras": [f"{loras[0]}:0.5"]}
    report = diffc.compile(tiny_model, ratio=0.4, out=out, options=flags, stop="distill")
    source = with_loras(find_source(tiny_model), [f"{loras[0]}:0.5"])
    lock = read_lock(out)
    assert lock["model"]["digest"] == source.digest == report.digest
    assert lock["recipe"]["loras"] == [f"{loras[0]}:0.5"]
    assert lock["model"]["loras"][0]["sha256"] == source.loras[0].digest
    (figures,) = report.loras
    assert (figures.name, figures.weight, figures.late) == ("first.safetensors", 0.5, False)
    assert any("first.safetensors at 0.5 changes" in note for note in report.notes)
    card = (out / "model" / "README.md").read_text()
    assert f"`first.safetensors` at 0.5 (sha256 {source.loras[0].digest})" in card
    # what was cut is the fused model
    dense = load_denoiser(source)
    units = _units(source, dense)
    cut(dense, units, Plan.read(out / "plan.json").keep())
    assert_same(weights(out / "model"), dense.state_dict())
    assert source_of(out).digest == source.digest
    # another weight, or none, is another model
    with pytest.raises(InputError, match=r"run of another model: .* with 1 LoRA"):
        diffc.compile(tiny_model, ratio=0.4, out=out, options=UNTRAINED, stop="distill")


def _units(source, model):
    from diffc.models.denoiser import denoiser_of
    from diffc.models.families import family

    return denoiser_of(model, family(source.class_name), source.scheduler).units()


@pytest.mark.slow
def test_build_with_loras_reuses_everything_before_them(own, tiny_model, loras):
    before = weights(own / "model")
    texts = [f"{loras[0]}:0.5", f"{loras[1]}:-2"]
    flags = [part for text in texts for part in ("--lora", text)]
    result = diffc_in_process("build", own, *flags, "--quiet")
    assert result.returncode == 0, result.stderr
    report = diffc.Report.read(own)
    again = {stage.name for stage in report.stages if not stage.cached}
    assert again.isdisjoint({"data", "importance", "plan", "prune", "repair", "distill"})
    assert {"fuse-loras", "export-dense", "export-compressed"} <= again
    assert [(one.name, one.weight, one.late) for one in report.loras] == [
        ("first.safetensors", 0.5, True),
        ("second.safetensors", -2.0, True),
    ]
    assert report.failed == []
    # the compressed model: as it was trained, and what cutting the dense model's change leaves
    base, full = (find_source(tiny_model), with_loras(find_source(tiny_model), texts))
    dense, fused = load_denoiser(base), load_denoiser(full)
    keep = Plan.read(own / "plan.json").keep()
    units = _units(base, load_denoiser(base))
    cut(dense, units, keep), cut(fused, units, keep)
    change = {name: value - dense.state_dict()[name] for name, value in fused.state_dict().items()}
    assert_same(weights(own / "model"), {name: before[name] + change[name] for name in before})
    # everything follows, and images come of it by the engine as by torch
    check_model(own), check_onnx(own)
    assert source_of(own).digest == full.digest
    for side in ("dense", "compressed"):
        by_engine, by_torch = (
            np.stack(diffc.pipeline(own, side=side, target=target)(n=2, seed=0).images)
            for target in ("ort-cpu", "torch")
        )
        assert abs(by_engine.astype(int) - by_torch.astype(int)).max() <= 2
    # and out again
    result = diffc_in_process("build", own, "--lora", "none", "--quiet")
    assert result.returncode == 0, result.stderr
    assert_same(weights(own / "model"), before)
    assert read_lock(own)["model"]["digest"] == base.digest
    assert diffc.Report.read(own).loras == []
    check_model(own), check_onnx(own)


def fuse_late(out, *texts):
    """What ``diffc build OUT --lora`` does, up to OUT/model."""
    recipe = locked_recipe(out).model_copy(update={"adapted_loras": texts})
    source = with_loras(source_of(out), recipe.loras, texts)
    drain(run(Request(source, recipe, out, stop="distill")))


@pytest.mark.slow
def test_adapt_gives_what_build_fuses(own, loras, tmp_path):
    result = diffc_in_process("adapt", f"{loras[1]}:-2", own, "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    path = own / "loras" / "second.safetensors"
    assert said["path"] == str(path) and said["left_out"] == [] and said["texts"] == 0
    assert 0 < said["narrowed"] <= said["kept"]
    with safe_open(path, "pt") as file:
        assert file.metadata()["adapted_from"]
        names = [*file.keys()]
    assert names and all(name.startswith("unet.") and ".lora_" in name for name in names)
    adapted = with_loras(find_source(own / "model"), [str(path)])
    expected = load_denoiser(adapted).state_dict()
    fuse_late(own, f"{loras[1]}:-2")
    assert_same(weights(own / "model"), expected)
    # the file that is there is not replaced unasked
    again = diffc_in_process("adapt", loras[1], own)
    assert again.returncode == 2 and "is there already" in again.stderr
    assert diffc_in_process("adapt", loras[1], own, "--force", "--quiet").returncode == 0


def test_adapt_says_what_it_cannot_do(own, loras, tiny_model, tmp_path):
    def refused(*words):
        result = diffc_in_process("adapt", *words)
        assert result.returncode == 2
        return result.stderr

    assert "holds no run of diffc" in refused(loras[0], tiny_model)
    assert "is no weight such as 0.8" in refused(f"{loras[0]}:x", own)
    path = save_lora(clip_state(), tmp_path / "texts.safetensors")
    assert "text encoders are not cut" in refused(path, own)
    other = save_lora({"unet.x.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    assert "LoRA of another base model" in refused(other, own)
    assert "is truncated" in refused(_truncated(loras[0], tmp_path), own)
    assert not (own / "loras").exists()


def _truncated(path: Path, folder: Path) -> Path:
    short = folder / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-8])
    return short


def test_a_refused_lora_touches_nothing(own, loras, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.is_file()}
    result = diffc_in_process("build", own, "--lora", _truncated(loras[0], tmp_path))
    assert result.returncode == 2 and "is truncated" in result.stderr
    result = diffc_in_process("build", own, "--lora", loras[0], "--lora", loras[0])
    assert result.returncode == 2 and "is there twice" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_changed_lora_is_noticed(own, loras, tmp_path):
    path = shutil.copy(loras[0], tmp_path / "style.safetensors")
    fuse_late(own, str(path))
    shutil.copy(loras[1], path)
    result = diffc_in_process("export", own)
    assert result.returncode == 2 and "with its LoRAs is not the one that" in result.stderr
    Path(path).unlink()
    result = diffc_in_process("export", own)
    assert result.returncode == 2 and "there is no LoRA file" in result.stderr


def test_finished_runs_ask_about_another_late_lora(own, tiny_model, loras):
    with pytest.raises(RequestError, match="adapted_loras none, now"):
        diffc.compile(
            tiny_model, ratio=0.4, out=own, options={**QUICK, "adapted_loras": [str(loras[0])]}
        )


@pytest.fixture(scope="session")
def sd_run(tmp_path_factory):
    """A tiny Stable Diffusion that was cut, widths and depth, and not trained."""

    def make(folder: Path) -> None:
        model = save_sd(folder / "sd")
        (folder / "prompts.txt").write_text("a red cat\na blue dog\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIFFC_CACHE", str(folder / "cache"))
            options = {
                **UNTRAINED,
                "data": {**QUICK["data"], "prompts": str(folder / "prompts.txt")},
                "prune": {**QUICK["prune"], "cut": "width,depth"},
                "quality": {"images": 2},
            }
            diffc.compile(model, ratio=0.5, out=folder / "run", options=options, stop="distill")

    return copy_once(tmp_path_factory, "sd-run", make)


@pytest.mark.slow
def test_text_encoders_come_along(sd_run, tmp_path):
    source = find_source(sd_run / "sd")
    pairs = random_pairs(load_denoiser(source))
    state = kohya_names(pairs, alpha=3.0)
    state |= clip_state()
    path = save_lora(state, tmp_path / "style.safetensors")
    result = diffc_in_process(
        "adapt", path, sd_run / "run", "--out", tmp_path / "small.safetensors"
    )
    assert result.returncode == 0, result.stderr
    assert "1 layers of text encoders, as they were" in " ".join(result.stdout.split())
    left_out = {unit.name for unit in Plan.read(sd_run / "run" / "plan.json").left_out}
    assert bool(left_out) == ("left out, for" in " ".join(result.stdout.split()))


@pytest.mark.slow
def test_diffusers_loads_an_adapted_lora(sd_run, tmp_path):
    """What pipeline.load_lora_weights does on OUT/model is what the cut of the fused model does."""
    pytest.importorskip("peft")
    source = find_source(sd_run / "sd")
    dense = load_denoiser(source)
    state = kohya_names(random_pairs(dense, rank=4), alpha=2.0)
    path = save_lora(state, tmp_path / "style.safetensors")
    goal = tmp_path / "small.safetensors"
    assert diffc_in_process("adapt", path, sd_run / "run", "--out", goal, "--quiet").returncode == 0
    pipeline = diffc.load(sd_run / "run" / "model")
    pipeline.load_lora_weights(str(goal))
    pipeline.fuse_lora(lora_scale=0.7)
    pipeline.unload_lora_weights()
    fused = load_denoiser(with_loras(source, [f"{path}:0.7"]))
    cut(
        fused, _units(source, load_denoiser(source)), Plan.read(sd_run / "run" / "plan.json").keep()
    )
    expected = fused.state_dict()
    assert_same(dict(pipeline.unet.state_dict()), expected)
