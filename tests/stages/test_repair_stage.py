"""The stage of the repair: what it leaves in OUT, with and without distillation after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command import diffc_in_process
from support.quick import QUICK
from support.runs import compile_quickly

import diffc
from diffc.errors import RequestError
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.stages.repair import REPAIRED

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
UNTRAINED = {"distill": {"steps": 0}, "repair": {"rows": 32}}


def compiled_untrained(model, out, **changes):
    return compile_quickly(model, out, ratio=0.5, **{**UNTRAINED, **changes})


@pytest.mark.slow
def test_without_distillation_the_repaired_model_is_the_compressed_one(tiny_model, tmp_path):
    report = compiled_untrained(tiny_model, tmp_path)
    cut, final = (load_file(tmp_path / side / WEIGHTS) for side in ("pruned", "model"))
    changed = load_file(tmp_path / ".diffc" / REPAIRED)
    assert report.repair["is_used"] and changed
    assert all(torch.equal(final[name], changed.get(name, cut[name])) for name in cut)
    loaded = diffc.load(tmp_path / "model").unet.state_dict()
    assert all(torch.equal(loaded[name], final[name]) for name in final)
    assert report.repair["repaired"]["to_dense"] < report.repair["cut"]["to_dense"]
    assert report.distillation["steps"] == 0
    assert report.compressed.params == sum(value.numel() for value in final.values())


@pytest.mark.slow
def test_off_leaves_the_cut_model(tiny_model, tmp_path):
    report = compiled_untrained(tiny_model, tmp_path, repair={"mode": "off"})
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (
        tmp_path / "pruned" / WEIGHTS
    ).read_bytes()
    assert not report.repair["is_used"]
    assert "Repair" not in to_markdown(report)


@pytest.mark.slow
def test_the_report_shows_what_it_did(tiny_model, tmp_path):
    report = compiled_untrained(tiny_model, tmp_path)
    text = to_markdown(report)
    cut, mended = (report.repair[side]["to_dense"] for side in ("cut", "repaired"))
    assert f"{cut:.4g}" in text and f"{mended:.4g}" in text
    page = to_html(report, tmp_path)
    assert all(layer["name"] in page for layer in report.repair["layers"])


@pytest.mark.slow
def test_few_rows_are_told(tiny_model, tmp_path):
    every = {"allocate": "uniform"}  # the layer behind the embedding of t has a row a sample
    report = compiled_untrained(
        tiny_model, tmp_path, repair={"rows": 4}, prune={**QUICK["prune"], **every}
    )
    layers = report.repair["layers"]
    assert any(layer["rows"] < layer["columns"] for layer in layers)
    (note,) = report.repair["notes"]
    assert "had fewer rows than inputs" in note
    assert note in to_markdown(report)
    assert all(layer["after"] <= layer["before"] for layer in layers)


@pytest.mark.slow
def test_distillation_begins_with_the_repaired_weights(tiny_model, tmp_path):
    """One step at a rate of nearly nothing gives the repaired weights, not the cut ones."""
    distill = {"steps": 1, "batch": 1, "warmup": 0, "learning_rate": 1e-12}
    compiled_untrained(tiny_model, tmp_path / "a")
    compile_quickly(tiny_model, tmp_path / "b", ratio=0.5, **{**UNTRAINED, "distill": distill})
    mended, trained = (load_file(tmp_path / name / "model" / WEIGHTS) for name in "ab")
    cut = load_file(tmp_path / "a" / "pruned" / WEIGHTS)
    for name in load_file(tmp_path / "a" / ".diffc" / REPAIRED):
        torch.testing.assert_close(trained[name], mended[name], atol=1e-4, rtol=1e-2)
        assert not torch.allclose(trained[name], cut[name], atol=1e-4, rtol=1e-2)


@pytest.mark.slow
def test_a_compressed_model_is_repaired_again(tiny_model, tmp_path):
    first = compiled_untrained(tiny_model, tmp_path / "a")
    again = compile_quickly(tmp_path / "a" / "model", tmp_path / "b", ratio=0.3, **UNTRAINED)
    assert again.model.params == first.compressed.params > again.compressed.params
    assert again.repair["is_used"]
    assert again.repair["dense"]["to_noise"] == pytest.approx(
        first.repair["repaired"]["to_noise"], rel=0.5
    )
    assert diffc.load(tmp_path / "b" / "model").unet is not None


@pytest.mark.slow
def test_the_command_line_takes_it(tiny_model, tmp_path):
    compiled_untrained(tiny_model, tmp_path / "o")
    done = diffc_in_process("distill", tmp_path / "o", "--repair", "off", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["repair"]["is_used"] is False
    done = diffc_in_process("distill", tmp_path / "o", "--repair", "maybe")
    assert done.returncode == 2 and "repair" in done.stderr


@pytest.mark.parametrize("repair", [{"rows": 3}, {"mode": "both"}, {"row": 9}])
def test_a_recipe_that_is_wrong_is_refused(tiny_model, tmp_path, repair):
    with pytest.raises(RequestError, match=r"repair"):
        compile_quickly(tiny_model, tmp_path, repair=repair)


@pytest.mark.slow
def test_weights_swapped_by_hand_are_refused(tiny_model, tmp_path):
    compiled_untrained(tiny_model, tmp_path)
    from diffc.follows import check_model

    check_model(tmp_path)
    path = tmp_path / ".diffc" / REPAIRED
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(diffc.DiffcError, match="was changed since diffc wrote it"):
        check_model(tmp_path)


@pytest.mark.slow
def test_a_run_killed_inside_the_repair_ends_with_the_same_weights(tiny_model, tmp_path):
    def run(name, kill):
        script = f"""
import diffc, os
def stop(event):
    if {kill} and event.stage == "repair" and event.progress and event.progress.done >= 3:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
diffc.compile({str(tiny_model)!r}, ratio=0.5, out={str(tmp_path / name)!r},
              options={ {**QUICK, **UNTRAINED}!r}, stop="distill", on_event=stop)
"""
        env = {**os.environ, "DIFFC_CACHE": str(tmp_path / f"cache-{name}")}
        return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)

    assert run("whole", False).returncode == 0
    assert run("killed", True).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/.diffc" / REPAIRED).exists()
    assert run("killed", False).returncode == 0
    files = [(tmp_path / name / "model" / WEIGHTS).read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
