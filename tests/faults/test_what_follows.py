"""A file of an output folder that is of an older model, plan or engine is refused by every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.pipelines import edit_json
from support.runs import compile_quickly

from diffc.bundle.build import write_bundle
from diffc.errors import InputError
from diffc.follows import (
    _Folder,
    check_engine,
    check_measured,
    check_model,
    check_onnx,
    still_follows,
)
from diffc.gate.baseline import save
from diffc.gate.subject import open_side
from diffc.measure.engines import MeasureOptions
from diffc.measure.side_by_side import side_by_side
from diffc.output import locked_recipe, read_lock, write_lock_of
from diffc.report.current import current_report
from diffc.report.model import Report
from diffc.stage_records import STATE
from diffc.stages.order import finish
from diffc_export.events import drain

ENGINE = "engines/ort-cpu/compressed"


@pytest.fixture
def out(compiled, tmp_path, monkeypatch) -> Path:
    """A copy of the compiled folder, with a cache in which all of it is done."""
    folder, _, cache = compiled
    monkeypatch.setenv("DIFFC_CACHE", str(cache))
    return Path(shutil.copytree(folder, tmp_path / "o"))


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: (exit code, stdout, stderr)."""

    def call(*args):
        from diffc.cli import main

        monkeypatch.setattr("sys.argv", ["diffc", *map(str, args)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_an_engines_side_is_what_its_stages_name_ends_with(tmp_path, monkeypatch):
    asked_of = []
    monkeypatch.setattr(_Folder, "engine_fault", lambda _self, *place: asked_of.append(place))
    sides = ("dense", "decoder", "encoder", "masked-decoder", "text_encoder_2")
    still_follows(tmp_path, [f"build-trt-rtx-{side}" for side in sides])
    assert asked_of == [("trt-rtx", side) for side in sides]


def edit_record(out: Path, name: str, **inputs) -> None:
    """Make a stage's record say that it was made from something else."""
    path = out / STATE / f"{name}.json"
    record = json.loads(path.read_text())
    record["inputs"] |= inputs
    path.write_text(json.dumps(record))


def distilled_again(out: Path) -> None:
    """What ``diffc distill OUT --distill-steps 8`` leaves: another OUT/model, record and lock."""
    path = out / STATE / "distill.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "key": "another"}))
    lock = read_lock(out)
    stages = {name: lock["stages"][name] for name in ("data", "importance", "plan", "prune")}
    write_lock_of(out, lock["model"], locked_recipe(out), {**stages, "distill": "another"})


def asked(out: Path, tmp_path: Path):
    """Every verb that begins with OUT's engines or ONNX files."""
    recipe = locked_recipe(out)
    return {
        "build": lambda: drain(finish(out, recipe, "build")),
        "bench": lambda: drain(finish(out, recipe, "bench")),
        "bench A B": lambda: drain(side_by_side([out, out / ENGINE], (), MeasureOptions())),
        "bundle": lambda: write_bundle(out, tmp_path / "bundle", server="none"),
        "bundle of an engine": lambda: write_bundle(
            out / ENGINE, tmp_path / "bundle", server="none"
        ),
        "check": lambda: open_side(out),
        "check of an engine": lambda: open_side(out / ENGINE),
        "baseline save": lambda: save(out, tmp_path / "baseline"),
    }


def refusals(out: Path, tmp_path: Path) -> dict[str, InputError]:
    """Each verb's refusal; nothing is written by any."""
    errors = {}
    for verb, call in asked(out, tmp_path).items():
        with pytest.raises(InputError) as caught:
            call()
        errors[verb] = caught.value
        assert "\n" not in str(caught.value) and caught.value.hint
    assert not (tmp_path / "bundle").exists() and not (tmp_path / "baseline").exists()
    return errors


def test_a_folder_as_it_was_made_is_believed(out, tmp_path):
    check_model(out), check_onnx(out), check_engine(out / ENGINE), check_measured(out)
    names = list(read_lock(out)["stages"])
    assert still_follows(out, names) == names
    report, notes = current_report(out)
    assert notes == [] and report == Report.read(out)


def test_after_another_distillation_no_verb_takes_the_older_files(out, tmp_path):
    distilled_again(out)
    for error in refusals(out, tmp_path).values():
        assert "is of the model before the last distillation" in str(error)
        assert str(error.hint).startswith(f"diffc export {out}")
    report, notes = current_report(out)
    assert report.targets == [] and report.quality is None and notes


@pytest.mark.slow
def test_pruned_again_for_real_and_then_measured(out, tmp_path, run):
    assert run("prune", out, "--ratio", "0.6", "--quiet")[0] == 0
    report, _ = current_report(out)
    assert report.compressed.bytes is None and report.targets == [] and report.quality is None
    code, _, said = run("bench", out)
    assert code == 2 and "model is of the plan before the last pruning" in said
    assert f"diffc export {out}" in said
    for error in refusals(out, tmp_path).values():
        assert "is of the plan before the last pruning" in str(error)
    code, _, said = run("eval", out)
    assert code == 2 and f"diffc distill {out}" in said
    assert run("prune", out, "--ratio", "0.4", "--quiet")[0] == 0  # and back again
    check_onnx(out), check_engine(out / ENGINE)


def test_an_engine_that_was_built_again_takes_its_figures_along(out, tmp_path, run):
    assert run("build", out, "--target", "ort-cpu", "--batch", "2", "--quiet")[0] == 0
    assert Report.read(out).targets == [] and Report.read(out).pipeline == []
    assert "bench-ort-cpu" not in read_lock(out)["stages"]
    with pytest.raises(InputError, match="ort-cpu was built again since it was measured") as caught:
        save(out, tmp_path / "baseline")
    assert f"diffc bench {out}" in str(caught.value.hint)
    check_engine(out / ENGINE)  # it is of the model all the same, and may be bundled


def test_engines_that_are_there_no_more_have_no_figures(out):
    shutil.rmtree(out / "engines" / "ort-cpu")
    report, notes = current_report(out)
    assert report.targets == [] and report.pipeline == [] and report.quality is not None
    assert any("bench-ort-cpu" in note for note in notes)


def test_weights_that_were_swapped_by_hand_are_named(out, tmp_path):
    from safetensors.numpy import load_file, save_file

    path = next((out / "model" / "unet").glob("*.safetensors"))
    tensors = {name: value + 1 for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    for error in refusals(out, tmp_path).values():
        assert f"{path} was changed since diffc wrote it" in str(error)
    with pytest.raises(InputError, match="was changed since"):
        current_report(out)
    with pytest.raises(InputError, match="was changed since"):
        check_model(out)


def test_a_changed_plan_and_a_changed_scheduler_are_named(out):
    plan = (out / "plan.json").read_text()
    (out / "plan.json").write_text(plan + "\n")
    with pytest.raises(InputError, match=r"plan\.json was changed"):
        check_onnx(out)
    (out / "plan.json").write_text(plan)
    edit_json(out / "model" / "scheduler" / "scheduler_config.json", num_train_timesteps=500)
    with pytest.raises(InputError, match=r"scheduler_config\.json was changed"):
        check_engine(out / ENGINE)


def test_what_a_person_changed_in_out_is_not_written_over(out, tiny_model):
    path = out / "model" / "scheduler" / "scheduler_config.json"
    edit_json(path, num_train_timesteps=500)
    changed = path.read_bytes()
    with pytest.raises(InputError, match="was changed since diffc wrote it") as caught:
        compile_quickly(tiny_model, out, "distill", ratio=0.5)
    assert "move it away" in str(caught.value.hint)
    assert path.read_bytes() == changed


def test_onnx_files_of_another_run_are_named(out, tmp_path):
    described = out / "onnx" / "compressed" / "model.json"
    edit_json(described, sha256="0" * 64)
    with pytest.raises(InputError, match=r"model\.json was changed since diffc wrote it"):
        check_onnx(out)
    with pytest.raises(InputError, match=r"model\.json was changed"):
        write_bundle(out, tmp_path / "bundle", server="none")


def test_an_engine_of_another_onnx_file_is_named(out, tmp_path):
    edit_json(out / ENGINE / "engine.json", source={"sha256": "0" * 64, "precision": "fp32"})
    with pytest.raises(InputError, match="was built from another ONNX file") as caught:
        write_bundle(out, tmp_path / "bundle", server="none")
    assert caught.value.hint == f"diffc build {out} --target ort-cpu"
    report, _ = current_report(out)
    assert report.targets == []


def test_an_engine_in_a_low_precision_is_known_by_the_file_it_came_from(out):
    info = json.loads((out / ENGINE / "engine.json").read_text())["source"]
    low = {**info, "precision": "fp16", "made_from": info["sha256"], "sha256": "1" * 64}
    edit_json(out / ENGINE / "engine.json", source=low)
    check_engine(out / ENGINE)
    edit_json(out / ENGINE / "engine.json", source={**low, "made_from": "2" * 64})
    with pytest.raises(InputError, match="was built from another ONNX file"):
        check_engine(out / ENGINE)


def test_without_the_onnx_files_an_engine_is_still_known(out):
    """People remove OUT/onnx to save room; the record of the export is enough."""
    shutil.rmtree(out / "onnx")
    check_engine(out / ENGINE)
    distilled_again(out)
    with pytest.raises(InputError, match="before the last distillation"):
        check_engine(out / ENGINE)


def test_a_plan_for_another_gpu_must_come_from_the_same_onnx_file(out, tmp_path):
    other = shutil.copytree(out / ENGINE, tmp_path / "other")
    source = json.loads((other / "engine.json").read_text())["source"]
    edit_json(other / "engine.json", source={**source, "sha256": "0" * 64}, built_for=["sm86"])
    with pytest.raises(InputError, match="it was built from another ONNX file"):
        write_bundle(out, tmp_path / "bundle", server="none", gpu_engines=[other])


def test_pictures_of_an_older_model_are_not_in_the_report(out):
    edit_record(out, "samples", compressed="another")
    report, notes = current_report(out)
    assert report.quality is None and report.frontiers == []
    assert len(notes) == 2 and "frontier-" in notes[0] and "samples" in notes[1]
    with pytest.raises(InputError, match="samples is of the model before") as caught:
        check_measured(out)
    assert f"diffc eval {out}" in str(caught.value.hint)
