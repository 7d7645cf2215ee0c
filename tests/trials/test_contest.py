"""The contest against brute force: the same winner, from fewer trainings."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from diffc.measure.frontier.standing import AS_LONG
from diffc.trials.contest import Contest, Entry
from diffc.trials.goals import Goals

RATIOS, PRECISIONS, STEPS = (0.2, 0.35, 0.5), ("fp32", "fp16"), (10, 8, 6, 4, 2)


def no_worse(one, other):
    ours, theirs = dict(one), dict(other)
    return (
        float(ours["ratio"]) <= float(theirs["ratio"])
        and PRECISIONS.index(ours["precision"]) <= PRECISIONS.index(theirs["precision"])
        and int(ours["loop"]) >= int(theirs["loop"])
    )


def a_table(seed, *, by_loop):
    """Candidates with times and figures in which no axis contradicts what is expected of it.

    by_loop: every loop has a training of its own. Otherwise the dense model's figure with a loop is
    a bound, and what the network has before any training is another.
    """
    random = np.random.default_rng(seed)
    ratio_cost = np.cumsum(random.uniform(0.01, 0.15, len(RATIOS)))
    precision_cost = np.cumsum(random.uniform(0, 0.01, len(PRECISIONS)))
    loop_cost = np.cumsum(random.uniform(0.01, 0.12, len(STEPS)))
    call = random.uniform(0.4, 1.0, len(PRECISIONS))
    entries, truth = [], {}
    for (i, ratio), (j, precision), (k, steps) in product(
        enumerate(RATIOS), enumerate(PRECISIONS), enumerate(STEPS)
    ):
        choice = (("ratio", str(ratio)), ("precision", precision), ("loop", str(steps)))
        trial = (choice[0], choice[2]) if by_loop else (choice[0],)
        ms = float(steps * (1 - 0.8 * ratio) * call[j] * random.uniform(0.97, 1.03))
        entry = Entry(choice, trial, ms, {"max_latency": ms})
        dense = float(0.98 - precision_cost[j] - loop_cost[k])
        truth[choice] = dense - float(ratio_cost[i])
        if not by_loop:
            entry.most, entry.before = {"min_ssim": dense}, {"min_ssim": truth[choice] - 0.1}
        entries.append(entry)
    return entries, truth


def play(contest, truth):
    """Train what the contest wants until it wants nothing; returns how many trainings."""
    trainings = 0
    while wanted := contest.next_trials():
        for trial in wanted:
            trainings += 1
            for entry in contest.entries:
                if entry.trial == trial and entry.out is None:
                    entry.trained = {"min_ssim": truth[entry.choice]}
        assert trainings <= 100
    return trainings


@pytest.mark.parametrize("by_loop", [False, True])
def test_the_fastest_loop_is_brute_forces(by_loop):
    trainings, all_trainings = 0, 0
    for seed in range(60):
        entries, truth = a_table(seed, by_loop=by_loop)
        goal = float(np.quantile(list(truth.values()), 0.2 + 0.01 * seed))
        contest = Contest(entries, Goals(min_ssim=goal), no_worse)
        trainings += play(contest, truth)
        all_trainings += len({entry.trial for entry in entries})
        able = [entry.ms for entry in entries if truth[entry.choice] >= goal]
        best = contest.best()
        assert best is not None
        assert best.ms <= min(able) * AS_LONG
    assert trainings < (0.4 if by_loop else 0.75) * all_trainings


def test_the_best_loop_of_a_time_is_brute_forces():
    for seed in range(40):
        entries, truth = a_table(seed, by_loop=True)
        limit = float(np.quantile([entry.ms for entry in entries], 0.4))
        for entry in entries:
            entry.out = "measured: too slow" if entry.ms > limit else None
        contest = Contest(entries, Goals(max_latency=limit), no_worse)
        trainings = play(contest, truth)
        best, able = contest.best(), [e for e in entries if e.ms <= limit]
        assert best is not None
        assert truth[best.choice] == max(truth[entry.choice] for entry in able)
        assert trainings <= len(RATIOS) * len(PRECISIONS)


def entry(ratio, steps, ms, **known):
    choice = (("ratio", str(ratio)), ("precision", "fp32"), ("loop", str(steps)))
    return Entry(choice, (choice[0],), ms, {"max_latency": ms}, **known)


def test_what_dense_itself_misses_is_an_estimate_and_says_so():
    one = entry(0.2, 2, 5.0, most={"min_ssim": 0.6})
    contest = Contest([one, entry(0.2, 8, 20.0)], Goals(min_ssim=0.8), no_worse)
    assert "estimate" in contest.why_out(one)
    assert [left.ms for left in contest.live()] == [20.0]


def test_a_failure_takes_what_is_expected_to_be_worse_away():
    bad, worse, other = entry(0.2, 4, 8.0), entry(0.5, 2, 3.0), entry(0.5, 8, 10.0)
    bad.trained = {"min_ssim": 0.5}
    contest = Contest([bad, worse, other], Goals(min_ssim=0.8), no_worse)
    assert contest.why_out(worse).startswith("expected")
    assert contest.why_out(other) is None


def test_reaching_before_training_spares_what_is_slower():
    good = entry(0.2, 4, 8.0, before={"min_ssim": 0.9})
    slow, fast = entry(0.35, 8, 12.0, before={"min_ssim": 0.7}), entry(0.5, 4, 4.0)
    contest = Contest([good, slow, fast], Goals(min_ssim=0.8), no_worse)
    assert "before any training" in contest.why_out(slow)
    assert [left.ms for left in contest.live()] == [4.0, 8.0]
    good.trained = {"min_ssim": 0.75}  # training can make it worse: then nothing was promised
    assert contest.why_out(slow) is None


def test_a_loop_that_costs_too_much_is_never_trained():
    costly = entry(0.2, 8, 90.0, out="measured: 90 ms")
    contest = Contest([costly], Goals(max_latency=30.0), no_worse)
    assert contest.next_trials() == []
    assert contest.best() is None
    assert contest.nearest() is costly


def test_the_nearest_misses_by_least():
    near, far = entry(0.2, 8, 20.0), entry(0.5, 8, 12.0)
    near.trained, far.trained = {"min_ssim": 0.78}, {"min_ssim": 0.5}
    contest = Contest([far, near], Goals(min_ssim=0.8), no_worse)
    assert contest.best() is None
    assert contest.nearest() is near


def test_several_trials_at_once_are_different_ones():
    entries, _ = a_table(3, by_loop=True)
    wanted = Contest(entries, Goals(min_ssim=0.5), no_worse).next_trials(4)
    assert len(wanted) == len(set(wanted)) == 4


@pytest.mark.parametrize("by_loop", [True, False])
def test_brute_force_trains_every_candidate(by_loop):
    entries, truth = a_table(3, by_loop=by_loop)
    contest = Contest(entries, Goals(min_ssim=0.01), no_worse, spare=False)
    assert play(contest, truth) == len({entry.trial for entry in entries})
    assert all(entry.trained is not None for entry in entries)
    assert contest.best() is min(entries, key=lambda one: one.ms)
