"""Stored baselines: round trips, history, what is damaged, newer, or somebody else's."""

import csv
import io
import json

import pytest
import yaml
from support.gate_folders import edit, make_output


@pytest.fixture
def stored(run, before, tmp_path):
    folder = tmp_path / "baselines" / "main"
    assert run("baseline", "save", before, "--to", folder)[0] == 0
    return folder


@pytest.mark.slow
def test_what_was_saved_can_be_measured_again(run, stored, tmp_path):
    same = make_output(tmp_path / "same")
    slow = make_output(tmp_path / "slow", macs=2_300_000_000)
    assert run("check", same, "--baseline", stored, "--no-loop")[0] == 0
    assert run("check", slow, "--baseline", stored, "--no-loop")[0] == 1


@pytest.mark.slow
def test_several_resolutions_are_judged_at_the_working_one(run, tmp_path):
    sized = make_output(tmp_path / "sized", others=((16, 16),))
    assert len(json.loads((sized / "report.json").read_text())["targets"]) == 2
    folder = tmp_path / "baselines" / "sized"
    assert run("baseline", "save", sized, "--to", folder)[0] == 0
    held = json.loads(run("baseline", "show", folder, "--json")[1])
    (figure,) = held["figures"]
    assert figure["p50_ms"] == pytest.approx(2.0, rel=0.05)  # at 16x16 it takes 8
    for asked in ("--baseline", "--baseline-report"):
        assert run("check", sized, asked, folder, "--no-loop")[0] == 0


def test_show_and_list(run, stored):
    code, out, _ = run("baseline", "show", stored, "--json")
    held = json.loads(out)
    assert code == 0 and held["engines"] == ["engines/fake/compressed"]
    assert len(held["figures"][0]["samples_ms"]) >= 30 and held["figures"][0]["onnx_sha256"]
    assert "tiny (UNet2DModel)" in run("baseline", "show", stored)[1]
    found = json.loads(run("baseline", "list", stored.parent, "--json")[1])["baselines"]
    assert [one["name"] for one in found] == ["main"]


def test_saving_again_replaces_it_and_adds_to_the_history(run, stored, before):
    assert run("baseline", "save", before, "--to", stored)[0] == 0
    text = run("baseline", "list", stored.parent, "--csv")[1]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 and rows[0]["target"] == "fake" and float(rows[0]["p50_ms"]) > 0
    assert sorted(p.name for p in stored.parent.iterdir()) == ["history.jsonl", "main"]


@pytest.mark.slow
def test_a_check_adds_to_a_history(run, stored, before, tmp_path):
    history = tmp_path / "history.jsonl"
    for _ in range(2):
        run("check", before, "--baseline", stored, "--no-loop", "--history", history)
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    assert len(rows) == 2 and rows[0]["verdict"] == "pass" and rows[0]["engine_bytes"] > 0


def test_figures_only(run, before, tmp_path):
    folder = tmp_path / "small"
    assert run("baseline", "save", before, "--to", folder, "--figures-only")[0] == 0
    assert sorted(p.name for p in folder.iterdir()) == ["baseline.json"]
    code, _, err = run("check", before, "--baseline", folder)
    assert code == 2 and "--baseline-report" in err
    code, out, _ = run("check", before, "--baseline-report", folder, "--no-loop", "--json")
    assert code == 0 and json.loads(out)["weaker"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is damaged"), ("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"),
     ('{"schema_version": 3}', "has schema 3; this diffc"),
     ('{"schema_version": 1}', "is damaged: diffc")],
)  # fmt: skip
def test_a_damaged_or_newer_baseline(run, before, stored, text, said):
    (stored / "baseline.json").write_text(text)
    code, _, err = run("check", before, "--baseline", stored)
    assert code == 2 and said in err and "Traceback" not in err


def test_a_cut_engine_in_a_baseline(run, before, stored):
    (stored / "engines/fake/compressed/scale.txt").write_text("")
    code, _, err = run("check", before, "--baseline", stored)
    assert code == 2 and "cut or altered" in err


def test_a_baseline_of_another_machine_shows_both(run, before, stored):
    edit(stored / "baseline.json", lambda b: b["environment"].update(cpu="Pentium"))
    code, _, err = run("check", before, "--baseline", stored)
    assert code == 4 and "cpu: baseline Pentium, here " in err


def test_somebody_elses_folder_is_left_alone(run, before, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    code, _, err = run("baseline", "save", before, "--to", tmp_path / "mine")
    assert code == 2 and "left as it is" in err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_nothing_to_save_or_list(run, before, tmp_path):
    (before / "report.json").unlink()
    assert run("baseline", "save", before)[0] == 2
    code, _, err = run("baseline", "list", tmp_path / "none")
    assert code == 2 and "holds no baselines" in err


def test_a_damaged_history(run, stored):
    (stored.parent / "history.jsonl").write_text('{"created": 1}\n')
    code, _, err = run("baseline", "list", stored.parent, "--csv")
    assert code == 2 and "line 1 is damaged" in err


def set_loop(out, loop):
    lock = yaml.safe_load((out / "recipe.lock.yaml").read_text())
    lock["recipe"]["loops"] = [loop]
    (out / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))


@pytest.mark.slow
def test_a_baseline_keeps_its_loop_and_each_side_runs_its_own(run, before, tmp_path):
    """One that an older diffc stored has none: it runs the usual loop."""
    folder = tmp_path / "baselines" / "looped"
    set_loop(before, "ddim:3")
    assert run("baseline", "save", before, "--to", folder)[0] == 0
    held = json.loads((folder / "baseline.json").read_text())
    assert (held["schema_version"], held["loop"]) == (2, "ddim:3:1")
    after = make_output(tmp_path / "after")
    set_loop(after, "ddim:4")
    said = run("check", after, "--baseline", folder, "--most-seconds", "1", "--json")[1]
    names = [figure["name"] for figure in json.loads(said)["figures"]]
    assert "loop p50, 4 steps DDIM (before: 3 steps DDIM)" in names
    older = {key: value for key, value in held.items() if key != "loop"} | {"schema_version": 1}
    (folder / "baseline.json").write_text(json.dumps(older))
    said = run("check", after, "--baseline", folder, "--most-seconds", "1", "--json")[1]
    names = [figure["name"] for figure in json.loads(said)["figures"]]
    assert "loop p50, 4 steps DDIM (before: 50 steps DDIM)" in names
