"""The whole chain on a tiny model: what is left in OUT, what is reused, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.command import diffc_in_process
from support.quick import QUICK

import diffc
import diffc.output
from diffc.errors import InputError, UnavailableError
from diffc.runner import StageFolder
from diffc_runtime.files import file_digest


def compile_(model, out, cache, **options):
    reused: dict[str, bool] = {}

    def note(event):
        if event.done is not None:
            reused[event.stage] = event.done.cached

    merged = {**QUICK, **options.pop("options", {})}
    options.setdefault("force", True)  # one folder is compiled with several requests
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFC_CACHE", str(cache))
        report = diffc.compile(model, out=out, options=merged, on_event=note, **options)
    return report, reused


def test_the_output_folder_is_as_promised(compiled):
    out, _, _ = compiled
    for name in (
        "recipe.lock.yaml", "plan.json", "pruned/model_index.json", "model/pruning.json",
        "onnx/dense/model.onnx", "onnx/compressed/reference.safetensors",
        "engines/ort-cpu/dense/engine.json", "engines/ort-cpu/compressed/model.onnx",
        "samples/grid.png", "report.json", "report.md",
    ):  # fmt: skip
        assert (out / name).is_file(), name
    assert not list(out.rglob("*.pkl")) + list(out.rglob("*.bin")) + list(out.rglob("*.pt"))


def test_the_report_holds_what_was_measured(compiled):
    out, report, _ = compiled
    assert report.compressed.macs == pytest.approx(report.model.macs * 0.6, rel=0.03)
    (result,) = report.targets
    assert result.target == "ort-cpu" and result.precision == "fp32" and result.batch == 1
    assert result.parity.passed
    assert result.dense.latency_ms.n >= 10
    assert result.dense.memory.peak_bytes > result.dense.memory.engine_bytes > 0
    assert report.pipeline[0].details["steps"] == 2
    assert -1 <= report.quality["ssim"]["mean"] <= 1
    assert report.quality["ssim"]["n"] == 4
    assert diffc.Report.read(out) == report


def test_report_json_follows_its_schema(compiled):
    import jsonschema

    out, _, _ = compiled
    schema = json.loads((Path(diffc.__file__).parent / "report/report.schema.json").read_text())
    jsonschema.validate(json.loads((out / "report.json").read_text()), schema)
    assert schema == diffc.Report.model_json_schema()


def test_load_gives_a_working_pipeline_back(compiled):
    from diffusers import DiffusionPipeline

    out, report, _ = compiled
    pipeline = diffc.load(out / "model")
    assert isinstance(pipeline, DiffusionPipeline)
    assert sum(p.numel() for p in pipeline.unet.parameters()) == report.compressed.params
    images = pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert images[0].size == (16, 16)


@pytest.mark.slow
def test_a_second_run_reuses_everything_and_a_new_ratio_what_it_can(compiled, tmp_path):
    out, report, _ = compiled
    cache = shutil.copytree(compiled[2], tmp_path / "cache")
    again, reused = compile_(report.model.name, out, cache, ratio=0.4)
    assert all(reused.values())
    assert again.targets == report.targets
    # a ratio that no other test compiles in the cache that all of them have
    _, reused = compile_(report.model.name, tmp_path / "new", cache, ratio=0.35, stop="build")
    assert reused["importance"] and reused["export-dense"] and reused["build-ort-cpu-dense"]
    assert not reused["plan"] and not reused["distill"]


def test_another_models_folder_is_refused_and_left_alone(compiled, other_model):
    out, _, cache = compiled
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InputError, match="holds a run of another model"):
        compile_(other_model, out, cache, ratio=0.4)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_folder_that_is_not_ours_is_refused(tiny_model, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run of diffc"):
        compile_(tiny_model, folder, tmp_path / "cache", ratio=0.4)
    assert os.listdir(folder) == ["precious.txt"]


def test_a_target_that_cannot_build_is_refused_before_any_work(tiny_model, tmp_path):
    with pytest.raises(UnavailableError, match="'ort-cuda' cannot build here"):
        compile_(tiny_model, tmp_path / "out", tmp_path / "cache", target="ort-cuda")
    assert not (tmp_path / "out").exists()


def _forget_the_dense_model(out):
    """As on another machine: recipe.lock.yaml names a folder that is not there."""
    lock = yaml.safe_load((out / "recipe.lock.yaml").read_text())
    lock["model"]["folder"] = "/nowhere"
    (out / "recipe.lock.yaml").unlink()
    (out / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))


def test_the_speedup_is_explained(compiled):
    out, report, _ = compiled
    (ladder,) = report.ladders
    assert (ladder.target, ladder.precision, ladder.batch) == ("ort-cpu", "fp32", 1)
    assert [(r.label, r.cause) for r in ladder.rungs] == [
        ("torch eager, fp32", ""),
        ("dense engine, fp32", "engine"),
        ("compressed engine, fp32", "pruning"),
    ]
    assert all(rung.latency_ms and rung.absent is None for rung in ladder.rungs)
    assert "Where the speed-up comes from" in (out / "report.md").read_text()
    assert "x pruning" in (out / "report.html").read_text()


def test_another_model_at_the_same_place_is_not_the_dense_one(compiled, other_model, tmp_path):
    from diffc.output import locked_recipe
    from diffc.stages.explain import explain_stage
    from diffc_export.events import drain

    copy = tmp_path / "copied"
    shutil.copytree(compiled[0], copy)
    lock = yaml.safe_load((copy / "recipe.lock.yaml").read_text())
    lock["model"]["folder"] = str(other_model)
    (copy / "recipe.lock.yaml").unlink()
    (copy / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))
    stage = explain_stage(copy, locked_recipe(copy), "ort-cpu")
    folder = StageFolder(tmp_path / "o", tmp_path / "s", tmp_path / "l")
    rungs = drain(stage.run(stage.inputs, folder)).ladders[0].rungs
    assert "is not the one that was compressed any more" in rungs[0].absent
    assert rungs[1].latency_ms and rungs[2].over_previous


def test_without_torch_the_engines_are_explained_all_the_same(compiled, monkeypatch):
    from diffc.stages.explain import why_no_torch
    from diffc_runtime import machine

    found = {"onnxruntime": "1.22"}
    monkeypatch.setattr(machine.packages, "version", found.get)
    assert "torch and diffusers are not installed" in why_no_torch({"name": "demo", "folder": "x"})


def test_nothing_is_explained_when_that_is_off(compiled):
    from diffc.output import locked_recipe
    from diffc.stages.explain import explain_stage

    recipe = locked_recipe(compiled[0])
    off = recipe.model_copy(
        update={"measure": recipe.measure.model_copy(update={"explain": "off"})}
    )
    assert explain_stage(compiled[0], recipe, "ort-cpu") is not None
    assert explain_stage(compiled[0], off, "ort-cpu") is None
    assert explain_stage(compiled[0], recipe, "torch") is None


@pytest.mark.parametrize(
    ("name", "batch", "causes"),
    [
        ("trt", (1, 4), ["", "engine", "graph capture", "pruning"]),
        ("ort-cuda", (1,), ["", "engine", "graph capture", "pruning"]),
        ("ort-cuda", (1, 4), ["", "engine", "pruning"]),
        ("ort-cpu", (1,), ["", "engine", "pruning"]),
    ],
)
def test_graphs_have_a_rung_where_there_are_graphs(tmp_path, name, batch, causes):
    from diffc.measure.environment import read_environment
    from diffc.recipe import Recipe
    from diffc.stage_inputs import FileInput, SectionInput
    from diffc.stages.bench import MachineInput
    from diffc.stages.explain import DenseModel, ExplainInputs, captures, ladder_steps
    from diffc_export.events import drain

    recipe = Recipe.model_validate({"build": {"batch": batch}})
    inputs = ExplainInputs(
        target=name,
        engines={side: FileInput(tmp_path / side, "") for side in ("dense", "compressed")},
        references={},
        onnx=FileInput(tmp_path / "onnx", ""),
        model=DenseModel("demo", "", "no torch here"),
        options=SectionInput(recipe.measure),
        build=SectionInput(recipe.build),
        captured=captures(name, recipe),
        fingerprint=MachineInput(read_environment()),
    )
    steps = drain(ladder_steps(inputs, tmp_path / "s"))
    assert [step.cause for step in steps] == causes
    plain = next(step for step in steps if step.cause == "engine")
    assert plain.captured == ("graph capture" not in causes)
    assert steps[-1].captured and steps[-1].label.endswith("captured") == (not plain.captured)
    assert steps[0].absent == "no torch here"


@pytest.mark.slow
def test_a_precision_has_a_rung_of_its_own(compiled, tmp_path):
    """bf16 where the processor has it, else int8, whose parity on a random model may fail."""
    pytest.importorskip("openvino")
    from diffc.stages.order import ParityFailed
    from diffc_export.targets.openvino import _capabilities

    precision = "bf16" if "BF16" in _capabilities() else "int8"
    out, _, cache = compiled
    folder = diffc.output.read_lock(out)["model"]["folder"]
    options = {"build": {"precision": precision}}
    try:
        found, _ = compile_(
            folder, tmp_path / "out", cache, ratio=0.4, target="openvino", options=options
        )
    except ParityFailed as failed:
        found = failed.report
    (ladder,) = found.ladders
    assert ladder.precision == precision
    assert [r.cause for r in ladder.rungs] == ["", "engine", "precision", "pruning"]
    assert ladder.rungs[2].label == f"dense engine, {precision}"
    assert all(rung.over_previous for rung in ladder.rungs[1:])


@pytest.mark.slow
def test_torch_is_a_target_like_the_others(compiled, tmp_path):
    """Dense and compressed run in torch, through parity, the loop and memory."""
    out, _, cache = compiled
    folder = diffc.output.read_lock(out)["model"]["folder"]
    found, _ = compile_(folder, tmp_path / "out", cache, ratio=0.4, target="torch")
    (result,) = found.targets
    assert result.target == "torch" and result.parity.passed
    assert result.parity.rel_l2 < 1e-5 and result.speedup.median > 0
    assert found.pipeline[0].target == "torch" and found.ladders == []
    engine = json.loads((tmp_path / "out/engines/torch/dense/engine.json").read_text())
    assert engine["details"]["model"] == folder


@pytest.mark.slow
def test_engines_are_built_from_a_copied_folder_without_the_model(compiled, tmp_path):
    """No model, no cache, and no torch: as on the target machine."""
    out, _, _ = compiled
    copy = tmp_path / "copied"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "engines")
    shutil.rmtree(copy / "model")
    _forget_the_dense_model(copy)
    script = (
        "import sys, importlib.util as util; known = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'torch' else known(name, *rest)\n"
        "import diffc.cli; sys.argv = ['diffc', 'bench', sys.argv[1], '--json',"
        "            '--frontier', 'off'];"
        "code = 0\n"
        "try: diffc.cli.main()\n"
        "except SystemExit as end: code = end.code or 0\n"
        "bad = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, copy], capture_output=True, text=True,
        env={**os.environ, "DIFFC_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["targets"][0]["parity"]["passed"]
    torch_rung, dense, pruned = report["ladders"][0]["rungs"]
    assert "the dense model is not on this machine (/nowhere)" in torch_rung["absent"]
    assert dense["latency_ms"]["p50"] > 0 and pruned["over_first"]["median"] > 0
    assert (copy / "engines/ort-cpu/compressed/engine.json").is_file()


@pytest.mark.slow
def test_an_engine_that_computes_something_else_fails(compiled, tmp_path):
    from diffc.recipe import Recipe
    from diffc.stages.order import ParityFailed, finish
    from diffc_export.events import drain

    out, _, _ = compiled
    copy = tmp_path / "copied"
    shutil.copytree(out, copy)
    path = copy / "onnx/compressed/reference.safetensors"
    tensors = load_file(path)
    tensors["output"] = tensors["output"] * 1.1
    from safetensors.torch import save_file

    save_file(tensors, path)
    record = copy / ".diffc/export-compressed.json"  # as if torch had given these
    stage = json.loads(record.read_text())
    stage["files"]["compressed/reference.safetensors"] = file_digest(path)
    record.write_text(json.dumps(stage))
    alone = {**QUICK["measure"], "explain": "off", "frontier": "off"}
    recipe = Recipe.model_validate({**QUICK, "measure": alone})
    with pytest.raises(ParityFailed, match="does not compute what torch computes") as caught:
        drain(finish(copy, recipe, "bench"))
    assert caught.value.exit_code == 1
    assert json.loads((copy / "report.json").read_text())["targets"][0]["parity"]["passed"] is False


@pytest.mark.slow
def test_a_compressed_model_can_be_compressed_again(compiled, tmp_path):
    out, report, cache = compiled
    again, _ = compile_(out / "model", tmp_path / "again", cache, ratio=0.3, stop="distill")
    assert again.model.params == report.compressed.params
    assert again.compressed.params < again.model.params
    assert diffc.load(tmp_path / "again/model").unet is not None


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_killed_inside_distillation_ends_with_the_same_weights(tiny_model, tmp_path, how):
    import yaml

    quick = {**QUICK, "distill": {**QUICK["distill"], "steps": 60, "checkpoint_every": 5}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(quick))

    def run(name, kill):
        script = f"""
import diffc, os, signal, yaml
from pathlib import Path
def stop(event):
    if {kill} and event.stage == "distill" and event.progress and event.progress.done >= 23:
        os.kill(os.getpid(), {int(how)})
options = yaml.safe_load(Path({str(tmp_path / "r.yaml")!r}).read_text())
diffc.compile({str(tiny_model)!r}, ratio=0.4, out={str(tmp_path / name)!r}, options=options,
              stop="distill", on_event=stop)
"""
        env = {**os.environ, "DIFFC_CACHE": str(tmp_path / f"cache-{name}")}
        return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)

    assert run("whole", False).returncode == 0
    assert run("killed", True).returncode != 0
    assert not (tmp_path / "killed/model").exists()
    assert run("killed", False).returncode == 0
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    whole, resumed = (
        load_file(tmp_path / "whole" / weights),
        load_file(tmp_path / "killed" / weights),
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    record = json.loads((tmp_path / "killed/.diffc/distill.json").read_text())
    assert record["result"]["resumed_from"] == 20


@pytest.mark.slow
def test_eval_and_bundle_go_on_from_the_folder(compiled, tmp_path):
    """Another number of images and another seed, beside the run's own figures; then a bundle."""
    out, _, cache = compiled
    copy = tmp_path / "copied"
    shutil.copytree(out, copy)

    def diffc_(*args):
        return diffc_in_process(*args, DIFFC_CACHE=str(cache))

    done = diffc_("eval", copy, "--images", 6, "--seed", 7, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["quality"]["ssim"]["n"], answer["quality"]["ssim"]["seeds"]) == (6, [7])
    before, after = (json.loads((one / "report.json").read_text()) for one in (out, copy))
    (evaluation,) = after["evaluations"]
    assert (evaluation["name"], evaluation["quality"]) == (answer["name"], answer["quality"])
    assert all(s["cached"] for s in after["stages"] if s["name"] != answer["name"])
    for part in ("quality", "targets", "pipeline", "frontiers", "command", "then"):
        assert after[part] == before[part]  # nothing that was measured is forgotten
    assert [s["name"] for s in after["stages"]] == [
        *(s["name"] for s in before["stages"]),
        answer["name"],
    ]
    pictures = copy / "evals" / answer["name"].partition("-")[2]
    assert (pictures / "grid.png").is_file()
    assert (copy / "samples/grid.png").read_bytes() == (out / "samples/grid.png").read_bytes()
    assert "6 images from the same noise" in (copy / "report.md").read_text()
    lock = (copy / "recipe.lock.yaml").read_bytes()
    done = diffc_("eval", copy, "--reference", tmp_path / "nothing")
    assert done.returncode == 2 and "--reference" in done.stderr
    assert (copy / "recipe.lock.yaml").read_bytes() == lock
    done = diffc_("bundle", copy, "--server", "none", "--to", tmp_path / "service")
    assert done.returncode == 0, done.stderr
    made = subprocess.run(
        [sys.executable, "-m", "diffc_runtime", "generate", "--n", "2", "--steps", "2",
         "--out", "g.png"],
        cwd=tmp_path / "service", capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "service/g-1.png").stat().st_size > 100
