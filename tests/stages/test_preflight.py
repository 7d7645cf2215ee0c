"""The checks before the first stage: their notes reach the screen and the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import compile_quickly

from diffc.output import read_notes
from diffc.recipe import resolve
from diffc.stages import preflight


@pytest.mark.slow
def test_notes_are_events_and_stay_in_the_report(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "model_checks", lambda source, recipe: ["a note", "a note"])
    events = []
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, "plan", on_event=events.append)
    assert [event.note for event in events if event.kind == "note"] == ["a note"]
    assert [event.kind for event in events[:3]] == ["started", "note", "passed"]
    assert report.notes == read_notes(out) == ["a note"]
    assert "a note" in (out / "report.md").read_text()


@pytest.mark.slow
def test_a_ratio_of_nothing_is_noted(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "model_checks", lambda source, recipe: [])
    report = compile_quickly(tiny_model, tmp_path / "uncut", "plan", ratio=0.0)
    words = "a ratio of 0 cuts and trains nothing: both sides of this run are the dense model"
    assert report.notes == [words]
    uncut = {"prune": {"ratio": 0}}
    for more in ({"distill": {"aim": "loop"}}, {"prune": {"ratio": 0, "widths": {"mid*": 8}}}):
        assert not preflight._uncut_notes(resolve(family="", flags={**uncut, **more}))


@pytest.mark.slow
def test_the_model_is_checked_once_for_the_same_files_and_recipe(tiny_model, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(preflight, "model_checks", lambda *given: calls.append(given) or ["seen"])
    reports = [compile_quickly(tiny_model, tmp_path / "out", "plan") for _ in range(2)]
    assert len(calls) == 1
    assert [report.notes for report in reports] == [["seen"], ["seen"]]
    compile_quickly(tiny_model, tmp_path / "out", "plan", ratio=0.4)
    assert len(calls) == 2


@pytest.mark.slow
def test_a_damaged_memo_is_written_anew(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    compile_quickly(tiny_model, tmp_path / "out", "plan")
    (memo,) = (tmp_path / "cache" / "preflight").iterdir()
    memo.write_text('["cut')
    compile_quickly(tiny_model, tmp_path / "out", "plan")
    assert json.loads(memo.read_text()) == []


@pytest.mark.slow
def test_changed_data_are_checked_anew(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file
    from support.pipelines import save_ddpm

    model, data = save_ddpm(tmp_path / "m"), tmp_path / "d.safetensors"
    calls = []
    monkeypatch.setattr(preflight, "model_checks", lambda *given: calls.append(given) or [])
    for n in (8, 9):
        save_file({"sample": torch.rand(n, 1, 16, 16)}, data)
        compile_quickly(model, tmp_path / "out", "plan", data={"source": str(data)})
    assert len(calls) == 2


@pytest.mark.slow
def test_a_run_in_which_all_is_reused_imports_no_torch(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    compile_quickly(tiny_model, out, "plan")
    code = (
        "import sys\n"
        "from support.runs import compile_quickly; from pathlib import Path\n"
        "compile_quickly(Path(sys.argv[1]), Path(sys.argv[2]), 'plan')\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tiny_model), str(out)]
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": tests}
    )
    assert done.returncode == 0, done.stderr
