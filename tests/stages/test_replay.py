"""A finished run again, from its recipe.lock.yaml alone."""

from __future__ import annotations

import shutil

import yaml
from support.command import diffc_in_process

from diffc.output import read_lock


def test_a_lock_given_back_makes_the_same_run(compiled, compiled_cache, tiny_model, tmp_path):
    """Every option comes from the lock: every stage is the same one, and is reused."""
    lock = shutil.copy(compiled[0] / "recipe.lock.yaml", tmp_path / "recipe.lock.yaml")
    again = tmp_path / "again"
    done = diffc_in_process("compile", tiny_model, "--recipe", lock, "--out", again, "--quiet")
    assert done.returncode == 0, done.stderr
    first, second = read_lock(compiled[0]), read_lock(again)
    assert second["recipe"] == first["recipe"]
    assert second["stages"] == first["stages"]
    report = yaml.safe_load((again / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"] if not stage["cached"]] == []


def test_a_flag_is_stronger_than_the_lock(compiled, compiled_cache, tiny_model, tmp_path):
    lock, again = compiled[0] / "recipe.lock.yaml", tmp_path / "again"
    args = ("--recipe", lock, "--ratio", "0.2", "--out", again, "--quiet")
    assert diffc_in_process("prune", tiny_model, *args).returncode == 0
    first, second = (read_lock(out)["recipe"] for out in (compiled[0], again))
    assert second.pop("prune") == {**first.pop("prune"), "ratio": 0.2}
    assert second == first


def test_the_lock_lies_in_the_run_that_is_made_again(
    compiled, compiled_cache, tiny_model, tmp_path
):
    out = shutil.copytree(compiled[0], tmp_path / "OUT")
    args = ("--recipe", out / "recipe.lock.yaml", "--out", out, "--quiet")
    done = diffc_in_process("compile", tiny_model, *args)
    assert done.returncode == 0, done.stderr
    assert read_lock(out)["stages"] == read_lock(compiled[0])["stages"]
