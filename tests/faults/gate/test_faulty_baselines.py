"""diffc baseline, on disks that are full and with files that are damaged."""

from __future__ import annotations

import shutil

import pytest

from diffc_export.targets import fake


@pytest.mark.parametrize("place", ["file", "file/x", "/proc/x/main"])
def test_a_baseline_that_cannot_be_written(run, out, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    code, _, err = run("baseline", "save", out, "--to", tmp_path / place)
    assert code == 2 and "--to" in err and (tmp_path / "file").read_text() == "mine"


def test_a_baseline_whose_history_is_a_folder(run, out, tmp_path):
    (tmp_path / "bl" / "history.jsonl").mkdir(parents=True)
    code, _, err = run("baseline", "save", out, "--to", tmp_path / "bl" / "main")
    assert code == 2 and "the history" in err and not (tmp_path / "bl" / "main").exists()


def test_a_disk_that_fills_up_leaves_the_baseline_of_before(run, out, tmp_path, monkeypatch):
    folder = tmp_path / "bl" / "main"
    assert run("baseline", "save", out, "--to", folder)[0] == 0
    held = (folder / "baseline.json").read_bytes()

    def full(source, to, *_, **__):
        raise shutil.Error([(source, to, "[Errno 28] No space left on device: 'x'")])

    monkeypatch.setattr("diffc.gate.baseline.shutil.copytree", full)
    code, _, err = run("baseline", "save", out, "--to", folder)
    assert code == 2 and f"cannot write --to {folder}: No space left on device\n" in err
    assert (folder / "baseline.json").read_bytes() == held
    assert sorted(p.name for p in folder.parent.iterdir()) == ["history.jsonl", "main"]


def test_a_cut_engine_is_not_saved(run, out, tmp_path):
    (out / "engines/fake/compressed" / fake.FILE).write_text("")
    code, _, err = run("baseline", "save", out, "--to", tmp_path / "bl" / "main")
    assert code == 2 and "cut or altered" in err and not (tmp_path / "bl" / "main").exists()


def test_every_row_of_a_damaged_history_but_the_bad_one_is_shown(run, out, tmp_path):
    folder = tmp_path / "bl" / "main"
    for _ in range(2):
        assert run("baseline", "save", out, "--to", folder)[0] == 0
    history = folder.parent / "history.jsonl"
    history.write_text("{\n" + history.read_text())
    code, said, err = run("baseline", "list", folder.parent, "--csv")
    assert code == 0 and len(said.splitlines()) == 3 and "line 1 is damaged" in err
    page = tmp_path / "page.html"
    code, _, err = run("report", out, "--history", history, "--html", page, "--quiet")
    assert code == 0 and "line 1 is damaged" in err and page.stat().st_size


def test_a_report_page_that_is_a_folder(run, out, tmp_path):
    code, _, err = run("report", out, "--html", tmp_path)
    assert code == 2 and f"cannot write --html {tmp_path}: it is a folder" in err
