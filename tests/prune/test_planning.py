"""Plans of real configurations: budgets, limits from the recipe, alignment."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.runs import compile_quickly

import diffc
from diffc.errors import InputError, RequestError
from diffc.models.branches import removed_branches
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.allocate import total_loss
from diffc.prune.knapsack import Budget, minimise
from diffc.prune.plan import Plan
from diffc.prune.planning import check_plan, cost_of, make_plan, problem_of
from diffc.recipe import resolve
from diffc.stages.plan import alignment

RATIOS = np.round(np.arange(0.2, 0.71, 0.05), 2).tolist()


@pytest.fixture(scope="module")
def demo():
    return find_source("demo")


@pytest.fixture(scope="module")
def scores(demo):
    generator = np.random.default_rng(0)
    return {g.name: generator.exponential(size=g.size) for g in cost_of(demo).groups}


def plan(source, scores, align=16, **prune):
    recipe = resolve(family="UNet2DModel", flags={"prune": {"cut": "width", **prune}})
    return make_plan(source, recipe, scores, {}, align)


@pytest.mark.slow
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


def memory_by_hooks(model) -> float:
    """Parameters, and the input and output of the layer where these are largest, by running it."""
    numbers = [0.0]
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(
                lambda _layer, given, output: numbers.append(given[0].numel() + output.numel())
            )
    with torch.no_grad():
        model(torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.long))
    return sum(value.numel() for value in model.parameters()) + max(numbers)


@pytest.mark.slow
def test_memory_is_what_the_cut_model_has(tiny_model, tmp_path):
    prune = {"ratio": 0.4, "ratio_of": "memory", "align": 4}
    compile_quickly(tiny_model, tmp_path / "out", "prune", prune=prune)
    dense = memory_by_hooks(load_denoiser(find_source(tiny_model)))
    cut = memory_by_hooks(load_denoiser(find_source(tmp_path / "out" / "pruned")))
    assert cut / dense == pytest.approx(0.6, abs=0.02)
    recipe = resolve(family="UNet2DModel", flags={"prune": {"cut": "width"}})
    costs = problem_of(find_source(tiny_model), recipe, None, 4).costs
    assert costs.memory(costs.dense) == dense
    assert costs.memory(Plan.read(tmp_path / "out" / "plan.json").widths) == cut


@pytest.mark.slow
@pytest.mark.parametrize("allocate", ["uniform", "global"])
@pytest.mark.parametrize(("fit", "precision", "wide"), [("9MB", "fp32", 4), ("3.9 mb", "fp16", 2),
                                                         ("9MB", "auto", 4)])  # fmt: skip
def test_a_network_fits_and_fills_what_it_may_take(demo, scores, allocate, fit, precision, wide):
    flags = {"prune": {"fit": fit, "allocate": allocate}, "build": {"precision": precision}}
    recipe = resolve(family="UNet2DModel", flags=flags)
    found = make_plan(demo, recipe, scores, {}, 16)
    most = float(fit.lower().removesuffix("mb")) * 1e6 / wide
    assert 0.9 * most < problem_of(demo, recipe, None, 16).costs.memory(found.widths) <= most
    assert found.why["ratio_of"] == "memory" and found.why["fit"] == fit


def test_what_fits_already_is_not_cut(demo, scores):
    assert not plan(demo, scores, fit="1GB").keep()


def test_what_cannot_fit_is_refused_with_what_stays(demo):
    recipe = resolve(family="UNet2DModel", flags={"prune": {"cut": "width", "fit": "0.3MB"}})
    with pytest.raises(RequestError, match=r"--fit 0\.3MB .* at least 0\.\d+ MB of"):
        check_plan(demo, recipe, 16)


@pytest.mark.parametrize("text", ["4", "0GB", "-4GB", "much", "4TB4"])
def test_no_amount_of_memory(text):
    with pytest.raises(RequestError, match="is no amount of memory above 0 such as 4GB"):
        resolve(family="UNet2DModel", flags={"prune": {"fit": text}})


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
    found = plan(demo, scores, ratio=0.5)
    found.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == found
    (tmp_path / "plan.json").write_text('{"format": 1, "groups": [')
    with pytest.raises(InputError, match="cannot read the plan"):
        Plan.read(tmp_path / "plan.json")


def test_a_plan_of_format_1_can_be_read(demo, scores, tmp_path):
    chosen = plan(demo, scores, ratio=0.5)
    chosen.save(tmp_path / "plan.json")
    value = json.loads((tmp_path / "plan.json").read_text())
    assert value["format"] == 2
    groups = [{**unit, "why": ""} for unit in value.pop("units")]
    (tmp_path / "plan.json").write_text(json.dumps({**value, "format": 1, "groups": groups}))
    assert Plan.read(tmp_path / "plan.json") == chosen
    (tmp_path / "plan.json").write_text(json.dumps({**value, "format": 3, "units": groups}))
    with pytest.raises(InputError, match="another format than diffc's 2"):
        Plan.read(tmp_path / "plan.json")


OUT = "mid_block.resnets.0"


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [OUT, "mid_*.resnets.0"])
def test_a_recipe_leaves_out_a_branch(demo, scores, tmp_path, pattern):
    """Its cost is gone, the rest meets the budget, and plan.json names it with the groups."""
    chosen = plan(demo, scores, ratio=0.4, widths={pattern: 0})
    kept = {unit.name: (unit.kept, unit.size, unit.keep) for unit in chosen.units}
    assert kept[OUT] == (0, 1, ()) and chosen.keep()[OUT].tolist() == []
    assert chosen.compressed.macs == pytest.approx(0.6 * chosen.dense.macs, rel=0.01)
    assert OUT not in [group.name for group in chosen.groups]
    chosen.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == chosen


@pytest.mark.parametrize("prune", [{"allocate": "uniform"}, {"ratio_of": "params"},
                                   {"ratio_of": "channels", "rounding": "paper"}])  # fmt: skip
def test_every_allocation_carries_a_branch_that_the_recipe_leaves_out(demo, scores, prune):
    chosen = plan(demo, scores, ratio=0.3, widths={OUT: 0}, **prune)
    assert {unit.name: unit.kept for unit in chosen.units}[OUT] == 0
    assert chosen.compressed.macs < chosen.dense.macs


def test_a_branch_stays_where_nothing_ranks_it(demo, scores):
    chosen = plan(demo, scores, ratio=0.4)
    assert [unit for unit in chosen.units if unit.kind in ("branch", "block")] == []


@pytest.mark.parametrize("worth", [0.0, 1e9])
def test_a_branch_that_is_ranked_goes_when_it_is_worth_little(demo, scores, worth):
    ranked = {**scores, OUT: np.array([worth])}
    chosen = plan(demo, ranked, ratio=0.4)
    assert {unit.name: unit.kept for unit in chosen.units}[OUT] == int(worth > 0)
    assert chosen.compressed.macs == pytest.approx(0.6 * chosen.dense.macs, rel=0.01)
    if not worth:
        fixed = plan(demo, ranked, ratio=0.4, fixed=[OUT])
        assert {unit.name: unit.kept for unit in fixed.units}[OUT] == 1


def test_the_knapsack_leaves_out_a_branch_that_is_worth_little(demo, scores):
    source = demo
    recipe = resolve(family="UNet2DModel", flags={"prune": {"cut": "width", "ratio": 0.4}})
    problem = problem_of(source, recipe, {**scores, OUT: np.array([0.0])}, 16)
    costs = problem.costs
    budget = Budget("macs", costs.macs, 0.6 * costs.macs(costs.dense))
    lost = total_loss(costs.units, problem.ranked)
    best = minimise(lost, [budget], problem.bounds, problem.start, problem.start)
    assert best.over == 0 and best.widths[-1] == 0


@pytest.mark.slow
def test_a_plan_that_leaves_out_a_branch_goes_to_a_checked_engine(tiny_model, tmp_path):
    name = "mid_block.resnets.1"
    report = compile_quickly(tiny_model, tmp_path / "out", "bench", prune={"widths": {name: 0}})
    assert report.targets[0].parity.passed
    row = next(row for row in report.plan["groups"] if row["name"] == name)
    assert (row["size"], row["kept"]) == (1, 0) and "keep" not in row
    pruning = json.loads((tmp_path / "out/model/pruning.json").read_text())
    assert pruning["removed"] == [name]
    model = load_denoiser(find_source(tmp_path / "out/model"))
    assert removed_branches(model) == [name]
    counted = sum(value.numel() for value in model.parameters())
    assert counted == Plan.read(tmp_path / "out/plan.json").compressed.params
    diffc.load(tmp_path / "out/model").save_pretrained(tmp_path / "again")
    again = load_denoiser(find_source(tmp_path / "again"))
    assert removed_branches(again) == [name]
    states = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)
