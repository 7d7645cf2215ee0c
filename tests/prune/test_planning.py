"""Plans of real configurations: budgets, limits from the recipe, alignment."""

from __future__ import annotations

import numpy as np
import pytest

from diffc.chain.front import alignment
from diffc.errors import InputError, RequestError
from diffc.models.source import find_source
from diffc.prune.planning import cost_of, make_plan
from diffc.recipe import resolve

RATIOS = np.round(np.arange(0.2, 0.71, 0.05), 2).tolist()


@pytest.fixture(scope="module")
def demo():
    return find_source("demo")


@pytest.fixture(scope="module")
def scores(demo):
    generator = np.random.default_rng(0)
    return {g.name: generator.exponential(size=g.size) for g in cost_of(demo).groups}


def plan(source, scores, align=16, **prune):
    recipe = resolve(family="UNet2DModel", flags={"prune": prune})
    return make_plan(source, recipe, scores, {}, align)


@pytest.mark.parametrize("allocate", ["uniform", "global"])
@pytest.mark.parametrize("ratio_of", ["macs", "params"])
def test_the_budget_is_hit_within_a_percent_and_monotone(demo, scores, allocate, ratio_of):
    left = []
    for ratio in RATIOS:
        found = plan(demo, scores, ratio=ratio, ratio_of=ratio_of, allocate=allocate)
        share = getattr(found.compressed, ratio_of) / getattr(found.dense, ratio_of)
        assert share == pytest.approx(1 - ratio, abs=0.01)
        left.append(share)
    assert left == sorted(left, reverse=True)


def test_kept_widths_are_aligned_and_whole_in_every_norm_group(demo, scores):
    found = plan(demo, scores, ratio=0.5)
    blocks = {g.name: g.runs for g in cost_of(demo).groups}
    for group in found.groups:
        if group.kind == "channels":
            assert group.kept % 16 == 0 and group.kept % blocks[group.name] == 0
        assert len(group.keep) == group.kept


def test_fixed_layers_floors_and_widths_of_the_recipe(demo, scores):
    found = plan(
        demo, scores, ratio=0.4, fixed=["time_embedding.*"], floors={"mid_block.*": 0.9},
        widths={"conv_in": 32},
    )  # fmt: skip
    kept = {group.name: (group.kept, group.size) for group in found.groups}
    assert kept["time_embedding.linear_1"] == (256, 256)
    assert kept["mid_block.resnets.0.conv1"] == (128, 128)  # 0.9 of 128, aligned upwards
    assert kept["conv_in"] == (32, 64)
    assert found.compressed.macs == pytest.approx(found.dense.macs * 0.6, rel=0.01)


def test_a_layer_that_is_not_there_names_the_nearest(demo, scores):
    with pytest.raises(
        RequestError, match=r"unknown layer 'mid_blok\.resnets\.0\.conv1'"
    ) as caught:
        plan(demo, scores, fixed=["mid_blok.resnets.0.conv1"])
    assert "mid_block.resnets.0.conv1" in caught.value.hint


def test_an_impossible_budget_says_what_holds_it(demo, scores):
    with pytest.raises(RequestError, match=r"at most 0\.\d+ can be removed") as caught:
        plan(demo, scores, ratio=0.9, fixed=["conv_in", "up_blocks.2.*", "down_blocks.0.*"])
    assert "conv_in" in caught.value.hint or "up_blocks" in caught.value.hint


@pytest.mark.parametrize("width", [0, 65, 63])
def test_a_width_that_cannot_be(demo, scores, width):
    with pytest.raises(RequestError, match="conv_in cannot have"):
        plan(demo, scores, widths={"conv_in": width})


def test_scores_that_are_not_finite(demo, scores):
    broken = {**scores, "conv_in": np.full(64, np.nan)}
    with pytest.raises(InputError, match="importance of conv_in"):
        plan(demo, broken, ratio=0.3)


@pytest.mark.parametrize(
    ("targets", "precision", "expected"),
    [(["ort-cpu"], "fp32", 16), (["trt"], "fp16", 8), (["trt"], "int8", 16),
     (["trt", "ort-cpu"], "fp16", 16)],
)  # fmt: skip
def test_alignment_follows_the_target(targets, precision, expected):
    flags = {"build": {"target": targets, "precision": precision}}
    assert alignment(resolve(family="UNet2DModel", flags=flags)) == expected


def test_a_plan_survives_its_file(demo, scores, tmp_path):
    from diffc.prune.plan import Plan

    found = plan(demo, scores, ratio=0.5)
    found.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == found
    (tmp_path / "plan.json").write_text('{"format": 1, "groups": [')
    with pytest.raises(InputError, match="cannot read the plan"):
        Plan.read(tmp_path / "plan.json")
