"""The importance of a run whose blocks are worked alone: the same stage, and what it needs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.runs import compile_quickly, refusal

from bench import training_memory
from diffc.data.recipe_of_model import recipe_of_model
from diffc.models.source import find_source
from diffc.output import locked_recipe
from diffc.stages import by_block as choosing
from diffc.stages.by_block import with_by_block
from diffc.stages.finished import _outcome_options
from diffc.stages.needs import Lack

SCORES = ".diffc/importance.safetensors"


def by_block(word):
    return {"prune": {"importance": {"passes": 2, "grid": 2, "by_block": word}}}


@pytest.mark.slow
def test_a_run_gives_the_scores_of_the_whole_network_and_is_reused(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    compile_quickly(tiny_model, tmp_path / "whole", "plan", **by_block("off"))
    cached = compile_quickly(tiny_model, tmp_path / "cached", "plan", **by_block("on"))
    assert next(one for one in cached.stages if one.name == "importance").cached
    assert locked_recipe(tmp_path / "whole").prune.importance.by_block == "off"
    recipe = locked_recipe(tmp_path / "whole")
    assert _outcome_options(recipe) == _outcome_options(with_by_block(recipe, "auto"))
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "other"))
    # the machine has no room for the whole network
    lack = Lack("importance", "this machine", 5 << 30, 4 << 30)
    monkeypatch.setattr(choosing, "first_lack", lambda *_: lack)
    notes = []

    def note(event):
        notes.append(event.note or "")

    compile_quickly(tiny_model, tmp_path / "alone", "plan", on_event=note, **by_block("auto"))
    assert any("block by block: with the whole network it needs about 5.0 GiB" in n for n in notes)
    assert locked_recipe(tmp_path / "alone").prune.importance.by_block == "on"
    whole, alone = (load_file(tmp_path / name / SCORES) for name in ("whole", "alone"))
    for name, score in whole.items():
        assert np.abs(alone[name] - score).max() <= 1e-5 * np.abs(score).max()
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("whole", "alone")]
    kept = [{unit["name"]: unit["keep"] for unit in plan["units"]} for plan in plans]
    assert kept[0] == kept[1]


def test_what_is_no_choice_is_refused(tiny_model, tmp_path):
    assert "by_block" in str(refusal(tiny_model, tmp_path, **by_block("sometimes")))


def test_a_score_of_another_package_is_refused(tiny_model, monkeypatch):
    from diffc.prune import importance

    monkeypatch.setattr(importance, "score_names", lambda: ["diff-pruning", "l1"])
    options = {"prune": {"importance": {"method": "l1", "by_block": True}}}
    with pytest.raises(Exception, match="the score 'l1' is another package's"):
        recipe_of_model(find_source(tiny_model), None, options)


@pytest.mark.slow
@pytest.mark.parametrize("word", training_memory.WORDS)
def test_the_estimate_is_what_it_takes(word):
    """A transformer, in a process of its own."""
    row = training_memory.ranking_in_process("transformer", word)
    assert row["own_peak_bytes"] == pytest.approx(row["estimated_bytes"], rel=0.1)
