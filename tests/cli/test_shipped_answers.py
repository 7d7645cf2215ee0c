"""The answers that ship are what plan and inspect work out, and no other question gets them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.command import diffc_in_process as diffc

from diffc.cli.shipped_answers import ANSWERS, refuse_out_of_reach, shipped_answer
from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import RequestError
from diffc.models.source import find_source
from diffc.prune.planning import check_plan
from diffc.recipe import resolve
from diffc.stages.plan import alignment
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


BEYOND = [
    {"ratio": 0.999},
    {"ratio": 0.999, "ratio_of": "params", "allocate": "uniform"},
    {"ratio": 0.99, "ratio_of": "channels"},
    {"ratio": 0.99, "ratio_of": "memory"},
    {"fit": "0.1MB"},
]


@pytest.mark.parametrize("prune", [*BEYOND, {"ratio": 0.9}, {"fit": "9MB"}])
@pytest.mark.parametrize("model", ["demo", "demo-text"])
def test_what_is_out_of_reach_is_refused_in_the_words_of_the_check_that_traces(model, prune):
    source = find_source(model)
    recipe = recipe_of_model(source, None, {"prune": prune})
    if prune not in BEYOND:
        refuse_out_of_reach(source, recipe)
        check_plan(source, recipe, alignment(recipe))
        return
    with pytest.raises(RequestError) as at_once:
        refuse_out_of_reach(source, recipe)
    with pytest.raises(RequestError) as by_trace:
        check_plan(source, recipe, alignment(recipe))
    assert str(at_once.value) == str(by_trace.value)
    assert at_once.value.hint == by_trace.value.hint


@pytest.mark.parametrize("flags", [{"floors": {"*": 0.5}}, {"fixed": ["conv_in"]}, {"align": 8}])
def test_other_limits_are_left_to_the_check_that_traces(flags):
    recipe = resolve(
        family="UNet2DModel", recipe="demo", flags={"prune": {**flags, "ratio": 0.999}}
    )
    refuse_out_of_reach(find_source("demo"), recipe)


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
