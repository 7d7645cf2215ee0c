"""Scores of other distributions: the example of docs/extending.md, and broken ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.distributions import install
from support.runs import compile_quickly, refusal

from diffc.errors import RequestError, UnavailableError
from diffc.prune.importance import (
    broken_scores,
    check_score,
    own_score_names,
    score,
    score_names,
    score_package,
)
from diffc.recipe import resolve

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTION = PAGE.read_text().partition("## An importance score")[2].partition("\n## ")[0]
EXAMPLE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
POINTS = re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]
POINTS = POINTS.replace('project.entry-points."diffc.scores"', "diffc.scores").replace('"', "")
L1 = {"prune": {"importance": {"method": "l1"}}}


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Installs a distribution that brings a score: add(name, {module: source}, entry points)."""

    def write(name, modules, points=POINTS):
        place = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}"
        install(monkeypatch, place, name, modules, points)

    return write


@pytest.mark.slow
def test_the_example_is_compiled_with_and_stands_in_plan_and_report(add, tiny_model, tmp_path):
    add("l1-score", {"l1_score": EXAMPLE})
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, **L1)
    expected = {"method": "l1", "norm": "l1"}
    assert json.loads((out / "plan.json").read_text())["why"]["importance"] == expected
    assert report.plan["why"]["importance"] == expected
    assert report.compressed.macs < 0.8 * report.model.macs
    record = json.loads((out / ".diffc" / "importance.json").read_text())
    assert record["inputs"]["options"]["method"] == "l1"


def test_the_example_is_listed_without_being_imported(add):
    add("l1-score", {"l1_score": "raise OSError"})
    assert score_names() == [*own_score_names(), "l1"] and score_package("l1") == "l1-score"
    assert "l1_score" not in sys.modules


def test_scores_are_listed_without_torch():
    code = (
        "import sys; from diffc.prune.importance import score_names; print(*score_names());"
        "from diffc.recipe import resolve; resolve(family='UNet2DModel'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["diff-pruning", "magnitude", "random", "reference", "taylor"]


def test_a_score_that_nobody_has_names_the_nearest():
    flags = {"prune": {"importance": {"method": "tailor"}}}
    with pytest.raises(RequestError, match=r"unknown importance score 'tailor' \(did you mean tay"):
        resolve(family="UNet2DModel", flags=flags)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libtoy.so is missing')", "OSError: libtoy.so is missing"),
        ("", "it sets no SCORE"),
        ("SCORE = object()", "its SCORE is not an instance of base.Score"),
        (EXAMPLE.replace("def measure", "def other"), "abstract method"),
    ],
)
def test_a_broken_score_is_named_and_skipped(add, source, reason):
    add("l1-score", {"l1_score": source})
    with pytest.raises(UnavailableError, match=re.escape(reason)) as caught:
        check_score("l1")
    line = str(caught.value)
    assert "l1" in line and "l1_score" in line and "\n" not in line and len(line) < 200
    assert broken_scores() == {"l1": line}
    check_score("taylor")


def test_a_broken_score_is_refused_before_the_work(add, tiny_model, tmp_path):
    add("l1-score", {"l1_score": "raise OSError('libtoy.so is missing')"})
    error = refusal(tiny_model, tmp_path / "out", **L1)
    assert "libtoy.so is missing" in str(error) and "l1-score" in error.hint


def test_two_scores_of_one_name_are_both_named(add):
    add("first", {"first_score": EXAMPLE}, "[diffc.scores]\ntaylor = first_score\n")
    with pytest.raises(RequestError, match="two scores are called 'taylor'") as caught:
        score("taylor")
    assert "first_score" in str(caught.value) and "taylor (diffc)" in str(caught.value)
    assert "taylor" in broken_scores()
