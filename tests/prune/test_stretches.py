"""Stretches of blocks: scored together, weighed in the knapsack, and cut block by block."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.family_cases import CASES, random_model

from diffc.data.clean import CleanSet
from diffc.models.branches import Branch, Stretch, covering, removed_branches, stretches, without
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.source import find_source
from diffc.prune.allocate import limits
from diffc.prune.depth.scores import with_branches
from diffc.prune.importance.base import Importance, Subject
from diffc.prune.planning import make_plan
from diffc.prune.surgery import cut
from diffc.recipe import Recipe
from diffc_export.events import drain

KNOWN = family("DiTTransformer2DModel")
CONFIG = {**CASES["dit"][1], "num_layers": 5}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
PAIR = "transformer_blocks.2-3"


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.set_num_threads(1)
    model = random_model("DiTTransformer2DModel", CONFIG)
    config = dict(model.config)
    specs = KNOWN.specs(config)
    inputs = example_inputs(specs, config, 8, torch.Generator().manual_seed(0))
    clean = CleanSet(inputs["sample"], {"class_labels": inputs["class_labels"]}, "random")
    denoiser = denoiser_of(model, KNOWN, SCHEDULER, specs)
    return Subject(denoiser, clean, denoiser.groups(), KNOWN.branches(model))


@pytest.fixture(scope="module")
def source(subject, tmp_path_factory):
    from diffusers import DDPMScheduler

    folder = tmp_path_factory.mktemp("dit")
    subject.denoiser.model.save_pretrained(folder / "transformer")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    index = '{"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}'
    (folder / "model_index.json").write_text(index)
    return find_source(str(folder))


def test_stretches_are_neighbours_of_one_list(subject):
    names = [one.name for one in stretches(subject.branches)]
    assert names == [f"transformer_blocks.{ends}" for ends in ("1-2", "2-3", "3-4", "1-3", "2-4")]
    many = [Branch(f"blocks.{place}", "block", ()) for place in range(40)]
    assert {len(one.blocks) for one in stretches(many)} == {2}
    gap = [Branch(f"blocks.{place}", "block", ()) for place in (0, 4)]  # of a model cut before
    assert [one.name for one in stretches(gap)] == ["blocks.0-4"]


def test_a_stretch_takes_its_blocks_and_what_is_inside_them(subject):
    units = [*subject.groups, *subject.branches, *stretches(subject.branches)]
    inside = dict(zip((unit.name for unit in units), covering(units), strict=True))
    around = {units[place].name for place in inside["transformer_blocks.2.ff"]}
    assert {"transformer_blocks.2", PAIR, "transformer_blocks.1-3"} <= around
    assert {units[place].name for place in inside[PAIR]} == {
        "transformer_blocks.1-3", "transformer_blocks.2-4"
    }  # fmt: skip


def test_without_a_stretch_its_blocks_are_gone(subject):
    model = subject.denoiser.model
    pair = next(one for one in stretches(subject.branches) if one.name == PAIR)
    singles = [one for one in subject.branches if one.name[-2:] in (".2", ".3")]
    inputs = subject.denoiser.examples()
    with torch.no_grad():
        with without(model, [pair]):
            together = subject.denoiser.call(inputs)
            assert set(removed_branches(model)) == {one.name for one in singles}
        with without(model, singles):
            assert torch.equal(together, subject.denoiser.call(inputs))
        assert not removed_branches(model)


@pytest.mark.slow
def test_blocks_that_undo_each_other_are_cheap_together(subject):
    """Block 3 takes away what block 2 adds: each is dear alone, both cost next to nothing."""
    model = copy.deepcopy(subject.denoiser.model)
    with torch.no_grad():
        for place, sign in ((2, 1.0), (3, -1.0)):
            block = model.transformer_blocks[place]
            for part in (block.attn1.to_out[0], block.ff.net[2]):
                part.weight.zero_()
                part.bias.zero_()
            block.ff.net[2].bias.fill_(3.0 * sign)
        first, second = (model.transformer_blocks[place].norm1 for place in (2, 3))
        second.load_state_dict(first.state_dict())
    denoiser = subject.denoiser.with_model(model)
    one = Subject(denoiser, subject.clean, subject.groups, KNOWN.branches(model))
    channels = Importance({group.name: np.ones(group.size) for group in one.groups})
    scored = drain(with_branches(one, channels, 0))
    scores, depth = scored.scores, scored.why["depth"]
    assert (depth["branches"], depth["stretches"]) == (len(one.branches), 5)
    singles = [float(scores[f"transformer_blocks.{place}"][0]) for place in (2, 3)]
    assert float(scores[PAIR][0]) < 0.01 * max(singles)


def test_the_plan_leaves_out_a_stretch_and_names_its_blocks(subject, source):
    """Scores under which only the pair is cheap; the cut is the pair's."""
    scores = {unit.name: np.full(unit.size, 1.0) for unit in subject.groups}
    scores |= {unit.name: np.array([100.0]) for unit in subject.branches}
    scores |= {one.name: np.array([100.0]) for one in stretches(subject.branches)}
    scores[PAIR] = np.array([0.001])
    options = {"cut": "width,depth", "ratio": 0.45, "allocate": "global", "align": 4}
    plan = make_plan(source, Recipe(prune=options), scores, {}, 4)
    assert {unit.name for unit in plan.left_out if unit.kind == "block"} == {
        "transformer_blocks.2", "transformer_blocks.3"
    }  # fmt: skip
    assert not any("-" in unit.name for unit in plan.units)
    model = copy.deepcopy(subject.denoiser.model)
    cut(model, [*subject.groups, *subject.branches], plan.keep())
    assert {"transformer_blocks.2", "transformer_blocks.3"} <= set(removed_branches(model))


def test_what_may_not_go_keeps_the_blocks_around_it(subject):
    units = [*subject.groups, *subject.branches, *stretches(subject.branches)]
    bounds = limits(units, align=1, fixed=["transformer_blocks.2.attn1"])
    least = dict(zip((unit.name for unit in units), bounds.least.tolist(), strict=True))
    assert least["transformer_blocks.2"] == least[PAIR] == least["transformer_blocks.1-3"] == 1
    assert least["transformer_blocks.1"] == least["transformer_blocks.3-4"] == 0
    assert all(isinstance(unit, Stretch) for unit in units[-5:])
