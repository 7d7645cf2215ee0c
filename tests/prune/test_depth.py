"""Depth: branches in one knapsack with channels, their scores, and what --cut refuses."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.family_cases import case
from support.runs import compile_quickly

from diffc.data.clean import CleanSet
from diffc.errors import RequestError
from diffc.models.branches import Branch, covering, removed_branches, without
from diffc.models.cut import skeleton
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.models.families.reach import trace_call
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.allocate import Limits, limits
from diffc.prune.depth.scores import with_branches
from diffc.prune.depth.staying import held_branches
from diffc.prune.importance.base import Importance, Subject
from diffc.prune.knapsack import Budget, choose, minimise
from diffc.prune.plan import Plan
from diffc.prune.planning import check_plan, make_plan
from diffc.recipe import PruneSection, Recipe


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.9))
def test_a_choice_with_branches_is_the_best_of_all(seed, share):
    """A block (0) around a branch (1) and a group (2); the branch around another group (3)."""
    rng = np.random.default_rng(seed)
    around = [(), (0,), (0,), (0, 1), ()]
    counts = [2, 2, 3, 3, 3]
    losses = [rng.random(count) for count in counts]
    costs = [rng.random(count) for count in counts]
    most = share * sum(float(cost.max()) for cost in costs)

    def figures(options):
        there = [all(options[branch] != 0 for branch in some) for some in around]
        parts = [(loss[i], cost[i]) for loss, cost, i, is_there
                 in zip(losses, costs, options, there, strict=True) if is_there]  # fmt: skip
        return tuple(map(sum, zip(*parts, strict=True)))

    every = [figures(options) for options in product(*map(range, counts))]
    fitting = [loss for loss, cost in every if cost <= most]
    chosen = choose(losses, [costs], [most], [-np.inf], around).chosen
    loss, cost = figures([max(i, 0) if i >= 0 else 1 for i in chosen])
    if fitting:
        assert cost <= most + 1e-9
        assert loss <= min(fitting) * (1 + 1e-3) + 1e-9
    else:
        assert cost <= min(cost for _, cost in every) + 1e-6


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), left=st.floats(0.3, 0.8))
@example(seed=5002, left=0.5)  # a branch comes back for another, with a group narrower than it was
def test_products_with_branches_are_solved_as_by_brute_force(seed, left):
    """Two branches, each around one group, and a group that both read: the true costs multiply."""
    rng = np.random.default_rng(seed)
    around = [(1,), (), (3,), (), ()]  # groups 0 and 2 are inside branches 1 and 3
    size = np.array([4, 1, 4, 1, 4])
    bounds = Limits(np.ones(5, dtype=np.int64), np.array([1, 0, 1, 0, 1]))
    price, fixed, worth = rng.random(2) + 0.2, rng.random(2), rng.random(5)

    def cost(w):
        inner = sum(price[i] * w[2 * i] * w[4] * w[2 * i + 1] for i in range(2))
        return float(inner + sum(fixed[i] * w[2 * i + 1] * 4 for i in range(2)) + w[4])

    def lost(w):
        total = worth[4] * (size[4] - w[4]) ** 2
        for i in range(2):
            inner = worth[2 * i] * (size[2 * i] - w[2 * i]) ** 2
            total += inner if w[2 * i + 1] else 9 * worth[2 * i + 1]
        return float(total)

    budget = Budget("cost", cost, left * cost(size))
    solved = minimise(lost, [budget], bounds, size.copy(), size, around)
    ranges = [range(int(a), int(b) + 1) for a, b in zip(bounds.least, size, strict=True)]
    best = min(lost(np.array(w)) for w in product(*ranges) if cost(np.array(w)) <= budget.most)
    assert solved.over == 0
    assert solved.value <= best * 1.001 + 1e-9


def subject(name: str) -> Subject:
    tiny = case(name)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(8, *tiny.inputs["sample"].shape[1:], generator=generator)
    rest = {k: v[:1].repeat(8, *[1] * (v.ndim - 1)) for k, v in tiny.inputs.items()
            if k not in ("sample", "timestep")}  # fmt: skip
    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
    model = copy.deepcopy(tiny.model)
    denoiser = denoiser_of(model, tiny.family, scheduler, tiny.specs)
    branches = tiny.family.branches(model)
    return Subject(denoiser, CleanSet(samples, rest, "random"), tiny.groups, branches)


def scored(one: Subject, *rows: int) -> Importance:
    channels = {group.name: np.ones(group.size) for group in one.groups}
    work = with_branches(one, Importance(channels), 0, *rows)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize(
    ("rows", "timesteps", "taken"), [(1, 1, 1), (6, 1, 6), (16, 4, 16), (32, 8, 32), (33, 8, 40)]
)
def test_branches_are_judged_by_as_many_rows_as_asked_for(rows, timesteps, taken):
    depth = scored(subject("dit"), rows).why["depth"]
    assert (len(depth["timesteps"]), depth["rows"]) == (timesteps, taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "unet2d"])
def test_every_branch_is_scored_and_the_model_is_as_before(name):
    one = subject(name)
    before = {key: value.clone() for key, value in one.denoiser.model.state_dict().items()}
    result = scored(one)
    scores = {branch.name: float(result.scores[branch.name][0]) for branch in one.branches}
    assert all(np.isfinite(value) and value >= 0 for value in scores.values())
    assert max(scores.values()) > 0
    after = one.denoiser.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    depth = result.why["depth"]
    assert depth["evaluations"] >= len(one.branches) and depth["seconds"] > 0
    assert scored(subject(name)).scores[one.branches[0].name] == scores[one.branches[0].name]


def test_a_branch_that_does_nothing_scores_nothing():
    one = subject("dit")
    silent = "transformer_blocks.1.ff"
    with torch.no_grad():
        for value in one.denoiser.model.get_submodule(f"{silent}.net.2").parameters():
            value.zero_()
    scores = scored(one).scores
    assert scores[silent][0] == 0
    assert scores["transformer_blocks.1.attn1"][0] > 0


def test_without_gives_back_nested_branches():
    tiny = case("sdxl")
    model = copy.deepcopy(tiny.model)
    branches = tiny.family.branches(model)
    names = [name for name, _ in model.named_modules()]
    with without(model, branches):
        assert len(list(model.named_modules())) < len(names)
    assert [name for name, _ in model.named_modules()] == names


def test_a_branch_takes_what_is_inside_it_alone():
    tiny = case("dit")
    units = [*tiny.groups, *tiny.family.branches(tiny.model)]
    inside = {unit.name: {units[i].name for i in some}
              for unit, some in zip(units, covering(units), strict=True)}  # fmt: skip
    assert inside["transformer_blocks.1.ff"] == {"transformer_blocks.1"}
    assert inside["transformer_blocks.0.ff"] == set()
    assert {"transformer_blocks.1"} in inside.values()


def test_a_network_without_branches_is_refused_in_one_line(tiny_model, monkeypatch):
    source = find_source(tiny_model)
    kind = type(family(source.class_name))
    monkeypatch.setattr(kind, "branches", lambda self, model: [])
    recipe = Recipe(prune={"cut": "depth"})
    with pytest.raises(RequestError, match=r"--cut depth: a UNet2DModel has no branch that can be"):
        check_plan(source, recipe, 8)


def test_forbidden_branches_make_a_ratio_unreachable_and_are_named(tiny_model):
    recipe = Recipe(prune={"cut": "depth", "ratio": 0.6, "fixed": ["*resnets*"]})
    with pytest.raises(RequestError, match=r"ratio 0\.6 cannot be reached") as refused:
        check_plan(find_source(tiny_model), recipe, 8)
    assert "held by" in refused.value.hint


def test_of_what_may_not_go_the_one_that_holds_most_is_named(tiny_model):
    """Channels may go to their floors; the ratio is beyond that, and one branch is forbidden."""
    forbidden = "mid_block.resnets.0"
    recipe = Recipe(prune={"cut": "depth", "ratio": 0.95, "fixed": [forbidden]})
    with pytest.raises(RequestError, match=r"ratio 0\.95 cannot be reached") as refused:
        check_plan(find_source(tiny_model), recipe, 8)
    assert forbidden in refused.value.hint.partition("held by")[2]


def test_a_floor_has_the_branch_stay_that_it_names():
    tiny = case("dit")
    units = [*tiny.groups, *tiny.family.branches(tiny.model)]
    place = {unit.name: i for i, unit in enumerate(units)}
    name = "transformer_blocks.1"
    assert limits(units, align=1, floors={name: 0.5}).least[place[name]] == 1
    assert limits(units, align=1, floors={name: 0.0}).least[place[name]] == 0
    broad = limits(units, align=1, floors={"*": 0.5})  # of channels, since it matches some
    assert broad.least[place[name]] == 0
    assert broad.least[0] >= units[0].size / 2


def test_depth_without_scores_is_refused_in_words_of_its_own():
    recipe = Recipe(prune={"cut": "depth", "ratio": 0.3})
    with pytest.raises(RequestError, match="nothing has scored the branches") as refused:
        make_plan(find_source("demo"), recipe, None, {}, 8)
    assert "--out" in refused.value.hint
    both = Recipe(prune={"cut": "width,depth", "ratio": 0.3})
    plan = make_plan(find_source("demo"), both, None, {}, 8)
    assert not plan.left_out and plan.why["cut"] == "width,depth"


def test_the_text_stays_read():
    """Whatever the ratio, one cross-attention stays: else the graph would lose its text."""
    tiny = case("pixart")
    meta = skeleton(tiny.family.class_name, tiny.config)
    inputs = meta_inputs(tiny.specs)
    units = [*tiny.groups, *tiny.family.branches(meta)]
    scores = {unit.name: np.arange(unit.size, dtype=float) + place
              for place, unit in enumerate(units)}  # fmt: skip
    least = np.array([0 if isinstance(unit, Branch) else 1 for unit in units])
    staying = held_branches(
        meta, tiny.family, inputs, units, Limits(np.ones_like(least), least), scores
    )
    assert staying
    gone = [u for i, u in enumerate(units) if isinstance(u, Branch) and i not in staying]
    with without(meta, gone):
        used = trace_call(meta, inputs, tiny.family.call).inputs
    assert set(inputs) == set(used)


@pytest.mark.slow
def test_a_run_cuts_width_and_depth_and_its_engines_agree(tiny_model, tmp_path):
    out = tmp_path / "out"
    prune = {"cut": "width,depth", "ratio": 0.5}
    report = compile_quickly(tiny_model, out, "bench", prune=prune)
    assert report.targets[0].parity.passed
    plan = Plan.read(out / "plan.json")
    assert plan.compressed.macs == pytest.approx(0.5 * plan.dense.macs, rel=0.06)
    assert plan.why["cut"] == "width,depth" and plan.why["importance"]["depth"]["branches"] > 0
    assert {unit.kind for unit in plan.units} >= {"channels", "branch"}


@pytest.mark.slow
def test_depth_alone_leaves_channels_and_removes_nodes_and_can_be_cut_by_width(
    tiny_model, tmp_path
):
    out = tmp_path / "out"
    compile_quickly(tiny_model, out, "bench", prune={"cut": "depth", "ratio": 0.3})
    plan = Plan.read(out / "plan.json")
    assert plan.left_out and all(group.kept == group.size for group in plan.groups)
    files = {side: out / f"onnx/{side}/model.onnx" for side in ("dense", "compressed")}
    nodes = {side: len(onnx.load(path, load_external_data=False).graph.node)
             for side, path in files.items()}  # fmt: skip
    assert nodes["compressed"] < nodes["dense"]
    again = tmp_path / "again"
    compile_quickly(out / "model", again, "prune", prune={"ratio": 0.3})
    model = load_denoiser(find_source(again / "pruned"))
    before = load_denoiser(find_source(out / "model"))
    assert removed_branches(model) == removed_branches(before) != []
    assert Plan.read(again / "plan.json").compressed.params == sum(
        value.numel() for value in model.parameters()
    )


@pytest.mark.slow
def test_a_model_that_lost_width_can_lose_depth(tiny_model, tmp_path):
    """Compressed again the other way round: its branches go, and its widths are as they were."""
    out, again = tmp_path / "out", tmp_path / "again"
    compile_quickly(tiny_model, out, "distill", prune={"ratio": 0.3}, distill={"steps": 0})
    prune = {"cut": "depth", "ratio": 0.3}
    compile_quickly(out / "model", again, "distill", prune=prune, distill={"steps": 0})
    plan = Plan.read(again / "plan.json")
    assert plan.left_out and all(group.kept == group.size for group in plan.groups)
    model = load_denoiser(find_source(again / "model"))
    before = load_denoiser(find_source(out / "model"))
    assert removed_branches(model) and not removed_branches(before)
    shapes = {name: value.shape for name, value in before.state_dict().items()}
    assert all(shapes[name] == value.shape for name, value in model.state_dict().items())
    parameters = sum(value.numel() for value in model.parameters())
    assert plan.compressed.params == parameters < plan.dense.params


@pytest.mark.parametrize("words", ["depth,width", ["width", "depth"], "width,depth"])
def test_both_words_come_in_either_order(words):
    assert PruneSection(cut=words).cut == "width,depth"


@pytest.mark.parametrize("more", [{"allocate": "uniform"}, {"ratio_of": "channels"},
                                  {"rounding": "paper", "ratio_of": "channels"}])  # fmt: skip
def test_depth_does_not_go_with_what_knows_widths_alone(more):
    with pytest.raises(ValueError, match="cut: "):
        PruneSection(cut="depth", **more)
