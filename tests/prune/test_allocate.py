"""Widths under a budget: against brute force, and as properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chains import chain, random_scores

from diffc.errors import RequestError
from diffc.prune.allocate import limits, matching, paper_widths, stepped_down, walk
from diffc.prune.plan import best_channels


def macs_by_hand(sizes):
    return sum(a * b for a, b in itertools.pairwise([8, *sizes, 8]))


def test_costs_are_those_of_the_layers():
    costs = chain(32, 64)
    for widths in ([32, 64], [16, 40], [1, 1]):
        assert costs.macs(np.array(widths)) == macs_by_hand(widths)
        assert costs.params(np.array(widths)) == macs_by_hand(widths)


@pytest.mark.parametrize("scored", [False, True])
@given(
    sizes=st.lists(st.sampled_from([32, 48, 64, 96]), min_size=2, max_size=5),
    ratio=st.floats(0.1, 0.7),
    align=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_a_walk_lands_on_allowed_widths_near_the_target(scored, sizes, ratio, align, seed):
    costs = chain(*sizes, runs=4)
    scores = random_scores(costs, seed) if scored else None
    bounds = limits(costs.groups, align=align)
    target = costs.macs(costs.dense) * (1 - ratio)
    widths = walk(costs, bounds, costs.macs, target, scores)
    assert (widths % bounds.step == 0).all()
    assert (widths >= bounds.least).all()
    assert (widths <= costs.dense).all()
    step = max(one_step(costs, widths, bounds.step, g) for g in range(len(sizes)))
    assert abs(costs.macs(widths) - target) <= step


def one_step(costs, widths, steps, group):
    up = np.minimum(widths + steps, costs.dense)
    up[np.arange(len(widths)) != group] = widths[np.arange(len(widths)) != group]
    return max(costs.macs(up) - costs.macs(widths), costs.macs(widths) * 0.25)


@pytest.mark.parametrize("scored", [False, True])
def test_more_ratio_never_costs_more(scored):
    costs = chain(96, 128, 64, 128, runs=4)
    scores = random_scores(costs, 0) if scored else None
    bounds = limits(costs.groups, align=8)
    dense = costs.macs(costs.dense)
    found = [
        costs.macs(walk(costs, bounds, costs.macs, dense * (1 - ratio), scores))
        for ratio in np.arange(0.2, 0.71, 0.02)
    ]
    assert all(a >= b for a, b in itertools.pairwise(found))


def test_global_loses_hardly_more_than_the_best_of_all_allocations():
    """Brute force over every combination of aligned widths."""
    costs = chain(16, 16, 16, 16)
    bounds = limits(costs.groups, align=4)
    ratio = 0.4
    target = costs.macs(costs.dense) * (1 - ratio)
    worst = 0.0
    for seed in range(10):
        scores = random_scores(costs, seed)
        mine = walk(costs, bounds, costs.macs, target, scores)
        reached = costs.macs(mine)
        options = itertools.product([4, 8, 12, 16], repeat=4)
        best = min(
            lost(costs, scores, np.array(o)) for o in options if costs.macs(np.array(o)) <= reached
        )
        worst = max(worst, lost(costs, scores, mine) / best)
    assert worst <= 1.25


def lost(costs, scores, widths):
    return sum(
        scores[g.name].sum() - scores[g.name][best_channels(scores[g.name], w, g.runs)].sum()
        for g, w in zip(costs.groups, widths.tolist(), strict=True)
    )


def test_an_impossible_budget_says_the_least_and_who_holds_it():
    costs = chain(32, 64, 32)
    bounds = limits(costs.groups, align=8, fixed=["l1"])
    with pytest.raises(RequestError, match=r"at most 0\.\d+ can be removed") as caught:
        walk(costs, bounds, costs.macs, costs.macs(costs.dense) * 0.02, None)
    assert "l1" in caught.value.hint


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(RequestError, match="unknown layer 'l7'") as caught:
        matching(chain(8, 8).groups, "l7")
    assert "l0" in caught.value.hint or "l1" in caught.value.hint


@given(st.integers(1, 400), st.integers(1, 64))
def test_stepping_down_goes_to_the_next_multiple(width, step):
    below = stepped_down(width, step)
    assert below < width and below % step == 0 and width - below <= step


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 1000), st.floats(0.1, 1.0))
def test_channels_are_ranked_inside_their_block(blocks, per_block, seed, share):
    scores = np.random.default_rng(seed).random(blocks * per_block)
    kept_each = max(1, int(per_block * share))
    keep = best_channels(scores, kept_each * blocks, blocks)
    assert (np.diff(keep) > 0).all()
    for block in range(blocks):
        mine = [c for c in keep if c // per_block == block]
        gone = [c for c in range(block * per_block, (block + 1) * per_block) if c not in mine]
        assert len(mine) == kept_each
        assert not gone or min(scores[mine]) >= max(scores[gone])


def test_paper_rounding():
    group = chain(128, runs=32).groups
    assert paper_widths(group, 0.3).tolist() == [96]  # a nominal 0.3 is really a quarter
