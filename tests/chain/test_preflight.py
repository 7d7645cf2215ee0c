"""The checks before the first stage: their notes reach the screen and the report."""

import json

from support.runs import compile_quickly

from diffc.chain import preflight
from diffc.output import read_notes


def test_notes_are_events_and_stay_in_the_report(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "model_checks", lambda source, recipe: ["a note", "a note"])
    events = []
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, "plan", on_event=events.append)
    assert [event.note for event in events if event.kind == "note"] == ["a note"]
    assert [event.kind for event in events[:3]] == ["started", "note", "passed"]
    assert report.notes == read_notes(out) == ["a note"]
    assert "a note" in (out / "report.md").read_text()


def test_the_model_is_checked_once_for_the_same_files_and_recipe(tiny_model, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(preflight, "model_checks", lambda *given: calls.append(given) or ["seen"])
    reports = [compile_quickly(tiny_model, tmp_path / "out", "plan") for _ in range(2)]
    assert len(calls) == 1
    assert [report.notes for report in reports] == [["seen"], ["seen"]]
    compile_quickly(tiny_model, tmp_path / "out", "plan", ratio=0.4)
    assert len(calls) == 2


def test_a_damaged_memo_is_written_anew(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    compile_quickly(tiny_model, tmp_path / "out", "plan")
    (memo,) = (tmp_path / "cache" / "preflight").iterdir()
    memo.write_text('["cut')
    compile_quickly(tiny_model, tmp_path / "out", "plan")
    assert json.loads(memo.read_text()) == []
