"""diffc check notes what was built differently, and refuses what cannot be compared."""

from __future__ import annotations

import json

import pytest
from support.gate_folders import (
    FAST,
    change_engine,
    edit,
    figures_of,
    profiles_of,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"threads": 1}, "the threads differ, and count in the figures: baseline every core, "
                      "candidate 1"),
     ({"profiles": profiles_of((1, 8))}, "the shapes that they serve differ"),
     ({"profiles": profiles_of((1, 1), (4, 4))}, "the shapes that they serve differ"),
     ({"precision_found": "tf32"}, "the precisions that they compute in differ"),
     ({"built_for": ["sm86"]}, "the GPUs that they were built for differ")],
)  # fmt: skip
def test_what_was_built_otherwise_is_noted(run, out, before, changes, words, monkeypatch):
    monkeypatch.setattr("diffc_runtime.machine.cpu.cores", lambda: 4)
    change_engine(out, **changes)
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 0
    assert [note for note in json.loads(said)["notes"] if words in note]


def test_threads_of_the_request_are_both_sides(run, out, before):
    change_engine(out, threads=1)
    said = run("check", out, "--baseline", before, "--threads", "1", *FAST, "--json")[1]
    assert not [note for note in json.loads(said)["notes"] if "threads" in note]


def test_stored_times_of_other_threads_are_noted(run, out, before):
    edit(before / "report.json", lambda r: r["targets"][0]["details"].update(threads=1000))
    said = run("check", out, "--baseline-report", before, *FAST, "--json")[1]
    assert [note for note in json.loads(said)["notes"] if "baseline 1000, candidate" in note]


def test_stored_times_of_other_shapes_are_refused_or_noted(run, out, before, measured):
    details = json.loads((before / "report.json").read_text())["targets"][0]["details"]

    def change(**values):
        edit(before / "report.json", lambda r: r["targets"][0]["details"].update(values))
        code, said, err = run("check", out, "--baseline-report", before, *FAST, "--json")
        return code, json.loads(said)["notes"] if said else [], err

    code, notes, _ = change(served=["batch 1 to 8"])
    assert code == 0 and any("the shapes that they serve differ" in note for note in notes)
    code, notes, _ = change(served=None, threads=None)
    assert code == 0 and any("of which threads and shapes the stored" in note for note in notes)
    measured.clear()
    code, _, err = change(interface={**details["interface"], "sample": "float32 [1, 24, 24]"})
    assert code == 4 and "sample: baseline float32 [1, 24, 24], candidate float32 [1, 8, 8]" in err
    assert not measured


def test_a_stored_baseline_keeps_what_its_times_are_of(run, out, tmp_path):
    folder = tmp_path / "bl" / "main"
    assert run("baseline", "save", out, "--to", folder, "--figures-only")[0] == 0
    said = run("check", out, "--baseline-report", folder, *FAST, "--json")[1]
    assert not [note for note in json.loads(said)["notes"] if "not known" in note]


def test_a_report_in_the_place_of_engines(run, out, before):
    code, _, err = run("check", out, "--baseline", before / "report.json", *FAST)
    assert code == 2 and "--baseline-report takes a report.json" in err


def test_engines_of_another_precision_are_no_pair(run, out, before, measured):
    change_engine(out, precision_asked="int8", precision_found="int8")
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 4 and "has fake int8" in err and "has fake fp32" in err and not measured


def test_engines_of_other_inputs_are_refused(run, out, before, measured):
    def halve(content):
        content["inputs"][0]["dtype"] = "float16"

    edit(out / "engines/fake/compressed/engine.json", halve)
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 4 and "float16" in err and "float32" in err and not measured


def test_samples_of_other_steps_are_noted_beside_their_ssim(run, out, before):
    for folder, steps in ((out, 50), (before, 10)):
        loop = f"ddim:{steps}"
        edit(folder / "report.json", lambda r, loop=loop: r["quality"]["ssim"].update(loop=loop))
    said = run("check", out, "--baseline", before, *FAST, "--json")[1]
    assert (
        figures_of(said)["SSIM"]["note"]
        == "not of the same samples: loop ddim:10 before, ddim:50 now"
    )
