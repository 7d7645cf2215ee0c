"""compile --ratio 0.2,0.4: a run for each below --out, shared stages done once, one comparison."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from support.command import diffc_in_process as diffc
from support.quick import QUICK

from diffc.output import read_lock


@pytest.fixture
def quick(tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(QUICK))
    return path


@pytest.mark.slow
def test_each_ratio_gets_a_folder_and_the_comparison_ends_it(
    compiled_cache, tiny_model, quick, tmp_path
):
    outs = tmp_path / "OUTS"
    args = ("compile", tiny_model, "--recipe", quick, "--no-build", "--out", outs)
    done = diffc(*args, "--ratio", "0.3,40%")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in outs.iterdir()) == ["0.3", "0.4", "comparison.html"]
    assert [read_lock(outs / name)["recipe"]["prune"]["ratio"] for name in ("0.3", "0.4")] == [
        0.3,
        0.4,
    ]
    assert "ratio" in done.stdout
    assert "SSIM" in done.stdout
    assert "1 of 2: --ratio 0.3" in done.stderr
    again = diffc(*args, "--ratio", "0.3,0.4", "--json")
    runs = json.loads(again.stdout)["runs"]
    assert list(runs) == [str(outs / "0.3"), str(outs / "0.4")]
    assert all(stage["cached"] for run in runs.values() for stage in run["stages"])


@pytest.mark.slow
def test_what_the_ratios_share_is_done_once(compiled_cache, tiny_model, quick, tmp_path):
    outs = tmp_path / "OUTS"
    args = ("compile", tiny_model, "--recipe", quick, "--no-build", "--out", outs, "--quiet")
    assert diffc(*args, "--ratio", "0.3,0.4").returncode == 0
    first, second = (read_lock(outs / name)["stages"] for name in ("0.3", "0.4"))
    shared = {name for name in first if first[name] == second[name]}
    assert shared == {"data", "importance", "export-dense"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--ratio", "0.2,0.999"), "can be removed"),
        (("--ratio", "0.2,30"), "is not between 0 and 1"),
        (("--ratio", "0.2,x"), "--ratio x: not a share such as 0.3 or 30%"),
        (("--ratio", "0.2,0.4", "--bundle", "none"), "--bundle is of one run"),
    ],
)
def test_what_one_of_them_cannot_do_is_refused_before_the_first(
    args, words, compiled_cache, tiny_model, tmp_path
):
    done = diffc("compile", tiny_model, "--out", tmp_path / "OUTS", *args)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "OUTS").exists()


def test_a_run_is_no_folder_for_several(compiled, compiled_cache, tiny_model, tmp_path):
    out = shutil.copytree(compiled[0], tmp_path / "OUT")
    done = diffc("compile", tiny_model, "--ratio", "0.2,0.4", "--out", out)
    assert done.returncode == 2
    assert "several ratios need a folder each" in done.stderr
    assert not (out / "0.2").exists()
