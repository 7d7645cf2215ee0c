"""Latency allocation: the knapsack against brute force, tables, and the loop on real engines."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.chains import chain, random_scores

from diffc.errors import RequestError, UnavailableError
from diffc.models.families.unet2d import UNet2D
from diffc.models.source import find_source
from diffc.prune.allocate import limits, total_loss, unranked_scores, walk
from diffc.prune.by_latency import device as device_module
from diffc.prune.by_latency import search
from diffc.prune.by_latency import table as latency_table
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.layers import Layer
from diffc.prune.by_latency.search import MAX_EXTRA_UNASKED, plan_by_latency
from diffc.prune.by_latency.table import TimeTable, anchors, latency_model
from diffc.prune.knapsack import Budget, choose, minimise
from diffc.prune.plan import Plan, best_channels
from diffc.prune.planning import make_plan, problem_of
from diffc.recipe import resolve
from diffc.runner import StageFolder, StageResult
from diffc.stage_outcomes import ImportanceOutcome
from diffc.stages.importance import SCORES
from diffc.stages.plan import SHARE, plan_stage
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import Status


@given(
    groups=st.integers(2, 4), options=st.integers(2, 4), budgets=st.integers(1, 2),
    tight=st.floats(0.3, 0.9), seed=st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_choice_is_the_best_of_all(groups, options, budgets, tight, seed):
    generator = np.random.default_rng(seed)
    losses = [generator.exponential(size=options) for _ in range(groups)]
    costs = [[generator.uniform(1, 5, options) for _ in range(groups)] for _ in range(budgets)]
    most = [tight * sum(c.max() for c in cost) + 1e-9 for cost in costs]
    every = list(itertools.product(range(options), repeat=groups))

    def fits(chosen):
        return all(
            sum(c[i] for c, i in zip(cost, chosen, strict=True)) <= top
            for cost, top in zip(costs, most, strict=True)
        )

    def lost(chosen):
        return sum(loss[i] for loss, i in zip(losses, chosen, strict=True))

    best = min((c for c in every if fits(c)), key=lost, default=None)
    found = choose(losses, costs, most, [-np.inf] * budgets)
    assert len(found.chosen) == groups
    if best is None:
        assert not fits(found.chosen)
    else:
        assert lost(found.chosen) <= lost(best) * (1 + 1e-3) + 1e-9
        assert found.gap <= 1e-3


def test_a_choice_that_cannot_fit_exceeds_least():
    costs = [[np.array([5.0, 9.0]), np.array([4.0, 8.0])]]
    found = choose([np.array([1.0, 0.0])] * 2, costs, [1.0], [-np.inf])
    assert found.chosen == [0, 0]


@pytest.mark.slow
@example(seed=0, left=0.7890625)  # three groups have to move at once
@example(seed=365, left=0.6953125)  # by two steps one of them
@given(seed=st.integers(0, 1000), left=st.floats(0.35, 0.8))
@settings(max_examples=15, deadline=None)
def test_products_of_widths_are_solved_nearly_as_well_as_by_brute_force(seed, left):
    costs = chain(16, 16, 16, 16)
    bounds = limits(costs.groups, align=4)
    scores = random_scores(costs, seed)
    lost = total_loss(costs.groups, scores)
    slow = slower_first_layer(costs)
    budgets = [Budget("macs", costs.macs, left * costs.macs(costs.dense)),
               Budget("time", slow, left * slow(costs.dense))]  # fmt: skip
    found = minimise(lost, budgets, bounds, costs.dense, costs.dense)
    every = [np.array(w) for w in itertools.product([4, 8, 12, 16], repeat=4)]
    best = min((w for w in every if all(b.over(w) == 0 for b in budgets)), key=lost)
    assert found.over == 0
    assert found.value == pytest.approx(lost(found.widths))
    assert lost(found.widths) <= 1.1 * lost(best)


def slower_first_layer(costs):
    """A time that is not the MACs': constant overhead, and the first layer is ten times dearer."""
    return lambda w: float(costs.macs(w) + 10 * 8 * w[0] + 200)


def test_a_ceiling_below_the_least_width_is_kept():
    costs = chain(32, 32)
    bounds = limits(costs.groups, align=8)
    ceiling = costs.dense.copy()
    ceiling[0] = bounds.least[0] = 20
    lost = total_loss(costs.groups, random_scores(costs, 0))
    budget = Budget("macs", costs.macs, 0.4 * costs.macs(costs.dense))
    found = minimise(lost, [budget], bounds, ceiling, ceiling)
    assert found.widths[0] == 20 and found.over == 0


def test_recipe_widths_survive_the_walk_too():
    costs = chain(32, 32)
    bounds = limits(costs.groups, align=8)
    start = costs.dense.copy()
    start[0] = bounds.least[0] = 8
    widths = walk(costs, bounds, costs.macs, 0.5 * costs.macs(costs.dense), None, start)
    assert widths[0] == 8


def test_unranked_channels_lose_the_square_of_the_share_cut():
    costs = chain(32, 64, runs=4)
    scores = unranked_scores(costs.groups)
    for group in costs.groups:
        keep = best_channels(scores[group.name], group.size // 4 * 3, group.runs)
        assert 1 - scores[group.name][keep].sum() == pytest.approx(1 / 16)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 32]))
def test_anchors_hold_both_ends_and_are_aligned_between(a, b, align):
    low, high = sorted((a * align, b * align))
    found = anchors(low, high, align, latency_table.THOROUGH.shares)
    assert found[0] == low and found[-1] == high and list(found) == sorted(set(found))
    assert all(width % align == 0 for width in found)


@given(st.floats(16, 64), st.floats(8, 32))
def test_a_table_of_a_bilinear_time_gives_it_everywhere(x, y):
    axes = (16, 32, 64), (8, 32)
    time = lambda a, b: 3.0 + 0.5 * a + 2.0 * b + 0.25 * a * b  # noqa: E731
    table = TimeTable(axes, np.array([[time(a, b) for b in axes[1]] for a in axes[0]]))
    assert table.at((x, y)) == pytest.approx(time(x, y))


@pytest.fixture
def counted(monkeypatch):
    """Times that are computed: a layer costs the product of its widths."""
    asked = []

    def measured(points, bench, effort):
        asked.append(set(points))
        yield from ()
        return {name: 1e-6 * float(np.prod(sizes)) for name, (_, _, sizes) in points.items()}

    monkeypatch.setattr(latency_table, "measured", measured)
    return asked


def chain_layers(costs):
    names = dict.fromkeys(dim[0] for term in costs.terms for dim in term.dims)
    return [Layer(n, "linear", ((1,),), ((n, 1), (n, 0))) for n in names]


def test_the_model_sums_its_layers_and_measures_nothing_twice(counted, tmp_path):
    costs = chain(32, 64)
    shapes = {"l0.weight": (32, 8), "l1.weight": (64, 32), "l2.weight": (8, 64)}
    bounds = limits(costs.groups, align=8)
    bench = LatencyDevice("ort-cpu", cache=tmp_path)
    for _ in range(2):
        model = drain(latency_model(chain_layers(costs), costs.groups, shapes, bounds, 8, bench))
        for widths in ([32, 64], [16, 40], [8, 8]):
            assert model(np.array(widths)) == pytest.approx(1e-6 * costs.macs(np.array(widths)))
    assert len(counted) == 1  # the second time everything was in the cache


def test_a_plan_that_is_stopped_keeps_the_points_that_it_has(monkeypatch, tmp_path):
    """Each chunk's are kept as soon as they are measured; the next plan measures the rest alone."""
    taken: list[set[str]] = []

    def chunk(points, bench, rounds, done, clock):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(set(points))
        yield from ()
        return dict.fromkeys(points, 1e-3)

    monkeypatch.setattr(latency_table, "_CHUNK_POINTS", 3)
    monkeypatch.setattr(latency_table, "_measured_chunk", chunk)
    bench = LatencyDevice("ort-cpu", cache=tmp_path)
    points = {f"linear 1 {i}x8": ("linear", ((1,),), (i, 8)) for i in range(1, 9)}
    with pytest.raises(KeyboardInterrupt):
        drain(latency_table.measured(points, bench))
    assert [len(one) for one in taken] == [3, 3]
    assert set(latency_table.read_times(bench)) == taken[0] | taken[1]


def test_a_layer_slower_than_a_wider_one_was_disturbed():
    key = ("linear", ((1,),), (0,))
    times = {latency_table._point("linear", ((1,),), (w,)): t for w, t in
             [(8, 1.0), (16, 9.0), (32, 3.0)]}  # fmt: skip
    assert latency_table._table(key, [(8, 16, 32)], times).seconds.tolist() == [1.0, 3.0, 3.0]


def test_layers_that_take_too_long_are_given_up_after_the_first(monkeypatch):
    """A second each: of 100 layers 8 are built, and 30 s are not enough for the rest."""
    seconds = iter(range(1000))
    monkeypatch.setattr(latency_table.time, "perf_counter", lambda: float(next(seconds)))
    clock = latency_table._Clock(100, 30.0)
    for built in range(1, 8):
        clock.check(built)
    for _ in range(7):  # no time was read before
        next(seconds)
    with pytest.raises(latency_table.TablesTooDear, match="100 single layers would take 100 s"):
        clock.check(8)
    latency_table._Clock(100, None).check(8)
    latency_table._Clock(3, 30.0).check(2)


def planned_by_itself(source, work, *, spent, **options):
    """The plan of a run that says nothing of the allocation."""
    recipe = resolve(family=source.class_name, flags={"prune": {"ratio": 0.4, "align": 4},
                                                      **options})  # fmt: skip
    problem = problem_of(source, recipe, None, 4)
    scores = {name: s.astype(np.float32) for name, s in random_scores(problem.costs, 0).items()}
    work.mkdir()
    save_file(scores, work / SCORES)
    outcome = ImportanceOutcome(why={}, groups=len(scores))
    importance = StageResult("importance", "key", work, outcome, 0.0, 0, False)
    stage = plan_stage(source, recipe, importance, spent)
    outcome = drain(stage.run(stage.inputs, StageFolder(work, work, work)))
    return Plan.read(work / "plan.json"), outcome


@pytest.mark.slow
def test_a_run_goes_by_latency_where_the_tables_are_cheap(counted, tiny_model, tmp_path):
    """Times are the MACs here, so that latency falls exactly as far; no engine is built."""
    plan, outcome = planned_by_itself(find_source(tiny_model), tmp_path / "a", spent=60.0)
    assert plan.why["allocate"] == "latency" and len(counted) == 1
    assert plan.why["allocated_since"].startswith("ort-cpu runs here, and its tables took ")
    assert plan.why["latency"]["predicted"] <= plan.why["latency"]["asked"] + 0.01
    assert plan.compressed.macs / plan.dense.macs == pytest.approx(0.6, abs=0.01)
    assert outcome.latency is None  # nothing of the network itself was measured


@pytest.mark.slow
def test_where_nobody_asked_for_it_time_costs_at_most_so_much_importance(
    monkeypatch, tiny_model, tmp_path
):
    """Times that hardly fall with the widths: as far as MACs is out of reach."""

    def measured(points, bench, effort):
        yield from ()
        return {name: 1e-3 + 1e-6 * float(np.prod(sizes)) ** 0.7
                for name, (_, _, sizes) in points.items()}  # fmt: skip

    monkeypatch.setattr(latency_table, "measured", measured)
    source = find_source(tiny_model)
    lost = {}
    for most in (0.0, MAX_EXTRA_UNASKED, 1.0):
        monkeypatch.setattr("diffc.prune.by_latency.search.MAX_EXTRA_UNASKED", most)
        plan, _ = planned_by_itself(source, tmp_path / f"{most}", spent=60.0)
        assert plan.why["latency"]["predicted"] > plan.why["latency"]["asked"]
        lost[most] = sum(unit.lost for unit in plan.units), plan.why["latency"]["predicted"]
    least, usual, asked = lost.values()
    assert 1.1 * least[0] < usual[0] <= 1.4001 * least[0] < asked[0]
    assert least[1] > usual[1] > asked[1]


@pytest.mark.slow
def test_a_run_goes_by_importance_where_the_tables_are_dear(monkeypatch, tiny_model, tmp_path):
    def measured(points, bench, effort):
        yield from ()
        assert effort.seconds == SHARE * 40.0
        raise latency_table.TablesTooDear(len(points), 99.0)

    monkeypatch.setattr(latency_table, "measured", measured)
    source = find_source(tiny_model)
    plan, _ = planned_by_itself(source, tmp_path / "a", spent=40.0)
    assert plan.why["allocate"] == "global" and "latency" not in plan.why
    assert (
        "would take 99 s to measure on ort-cpu, more than 25% of the 40 s"
        in (plan.why["allocated_since"])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"build": {"target": ["torch"]}}, "which torch does not run"),
     ({"prune": {"ratio": 0, "align": 4}}, "nothing is cut"),
     ({"prune": {"ratio": 0.4, "ratio_of": "channels"}}, "know no latency")],
)  # fmt: skip
def test_a_run_goes_by_importance_where_no_latency_can_be(tiny_model, tmp_path, options, reason):
    plan, _ = planned_by_itself(find_source(tiny_model), tmp_path / "a", spent=60.0, **options)
    assert plan.why["allocate"] == "global"
    assert reason in plan.why["allocated_since"]


@pytest.mark.slow
def test_the_first_target_that_runs_here_is_the_one(counted, tiny_model, tmp_path):
    targets = {"build": {"target": ["torch", "ort-cpu"]}}
    plan, _ = planned_by_itself(find_source(tiny_model), tmp_path / "a", spent=60.0, **targets)
    assert plan.why["latency"]["bench"]["target"] == "ort-cpu"


@pytest.mark.parametrize("prune", [{"allocate": "latency"}, {"ratio_of": "latency"}])
def test_a_plan_without_a_target_says_so(tiny_model, prune):
    recipe = resolve(family="UNet2DModel", flags={"prune": prune})
    with pytest.raises(RequestError, match="latency is not known from a config"):
        make_plan(find_source(tiny_model), recipe, None, {}, 16)


def test_a_trial_engine_is_cut_by_the_units_of_the_plan(tiny_model, tmp_path, monkeypatch):
    """Nothing is traced anew: with values, a large network's trace takes gigabytes."""
    problem = problem_of(find_source(tiny_model), resolve(family="UNet2DModel"), None, 4)
    networks = []
    with monkeypatch.context() as patch:
        patch.setattr(search, "export_denoiser", lambda model, *_, **__: networks.append(model))
        patch.setattr(search, "lowered", lambda folder, precision: folder)
        patch.setattr(search, "target", lambda name: SimpleNamespace(build=lambda *_: iter(())))
        patch.delattr(UNet2D, "candidate_groups")
        trials = search.EngineTrials(problem, LatencyDevice("ort-cpu"), tmp_path)
        drain(trials.build(problem.least, "compressed"))
    (network,) = networks
    assert sum(p.numel() for p in network.parameters()) == problem.costs.params(problem.least)


def test_a_bench_that_cannot_run_says_so(monkeypatch):
    with pytest.raises(RequestError, match="torch does not run"):
        LatencyDevice("torch").check()
    status = Status(True, True, False, "no GPU here")
    absent = SimpleNamespace(status=lambda: status, facts=target("trt").facts)
    monkeypatch.setattr(device_module, "target", lambda name: absent)
    with pytest.raises(UnavailableError, match="cannot be measured here: no GPU here"):
        LatencyDevice("trt").check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "prune",
    [{"ratio_of": "latency", "allocate": "latency"}, {"ratio_of": "macs", "allocate": "latency"}],
)
def test_a_real_engine_is_planned_measured_and_recorded(tiny_model, tmp_path, prune):
    recipe = resolve(family="UNet2DModel", flags={"prune": {"ratio": 0.3, **prune}})
    source, bench = (
        find_source(tiny_model),
        LatencyDevice("ort-cpu", threads=1, cache=tmp_path / "cache"),
    )
    plan = drain(plan_by_latency(source, recipe, None, {}, 4, bench, tmp_path / "scratch"))
    found = plan.why["latency"]
    assert found["measured"] in found["rounds"] and 1 <= len(found["rounds"]) <= 4
    assert found["measured"]["compressed_ms"] < found["measured"]["dense_ms"]
    assert found["asked"] == pytest.approx(0.7, abs=0.05)
    if prune["ratio_of"] == "macs":
        assert plan.compressed.macs / plan.dense.macs == pytest.approx(0.7, abs=0.01)
    problem = problem_of(source, recipe, None, 4)
    assert (plan.widths % problem.bounds.step == 0).all()
    assert list((tmp_path / "cache" / "latency").glob("*.json"))
