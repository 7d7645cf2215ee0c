"""The answers that ship are what plan and inspect work out, and no other question gets them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.command import diffc_in_process as diffc

from diffc.cli.shipped_answers import ANSWERS, shipped_answer
from diffc.models.source import find_source
from diffc.recipe import resolve
from scripts import fill_answers


@pytest.fixture(scope="module")
def fresh():
    """Every answer, worked out now; as JSON, which has no tuples."""
    return json.loads(json.dumps(fill_answers.answers()))


def test_every_answer_is_what_is_worked_out(fresh):
    assert json.loads(ANSWERS.read_text()) == fresh, "run python scripts/fill_answers.py"


def asked(verb="plan", scores=fill_answers.NO_SCORES, changes=None, **flags):
    source = replace(find_source("demo"), **(changes or {}))
    recipe = resolve(family="UNet2DModel", recipe="demo", flags=flags)
    return shipped_answer(verb, source, recipe, scores)


@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_the_demo_has_an_answer(verb):
    assert asked(verb)["model"]["params"] > 4e6


@pytest.mark.parametrize(
    "flags",
    [
        {"prune": {"ratio": 0.31}},
        {"prune": {"allocate": "uniform"}},
        {"prune": {"widths": {"conv_in": 16}}},
        {"export": {"resolution": [16]}},
        {"prune": {"align": 8}},
        {"data": {"source": "images"}},
        {"changes": {"name": "./demo"}},
    ],
)
def test_another_question_has_none(flags):
    assert asked(**flags) is None


def test_scores_are_another_question(tmp_path):
    scores = tmp_path / "scores"
    scores.write_bytes(b"1")
    assert asked(scores=scores) is None


def test_without_the_file_it_is_worked_out(monkeypatch, tmp_path):
    shown = diffc("plan", "demo", "--json")
    monkeypatch.setattr("diffc.cli.shipped_answers.ANSWERS", tmp_path / "none.json")
    assert asked() is None
    again = diffc("plan", "demo", "--json")
    assert json.loads(again.stdout) == json.loads(shown.stdout)
