"""The verdicts that a noisy machine still allows."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from support.gate_folders import (
    FAST,
    figures_of,
    make_output,
)

from diffc.gate import figures
from diffc.gate.rule import Decision
from diffc.measure.statistics import Ratio
from diffc_export.targets import fake


def decision(low, high, verdict="unfit"):
    none = np.empty(0)
    ratio = Ratio((low * high) ** 0.5, (low, high), (low, high), 320)
    return Decision(verdict, ratio, none, none, none, 1.0)


@pytest.mark.parametrize(
    ("interval", "itself", "verdict"),
    [((1.5, 2.5), (0.7, 1.4), "regressed"),  # far slower, whatever the noise
     ((1.06, 1.2), (0.7, 1.4), "regressed"),  # wholly beyond the limit
     ((0.9, 1.2), (0.7, 1.4), "unfit"),
     ((0.3, 0.5), (0.7, 1.4), "unfit"),  # a pass needs a machine that can tell
     ((1.07, 1.2), (1.06, 1.3), "unfit"),  # as the baseline differs from itself, for good
     ((1.07, 1.2), (0.8, 0.9), "unfit"),
     ((1.4, 1.6), (1.06, 1.3), "regressed"),
     ((1.06, 1.2), (0.98, 1.02), "regressed"),
     ((0.98, 1.02), (0.98, 1.02), "pass")],
)  # fmt: skip
def test_what_an_unfit_machine_can_still_tell(interval, itself, verdict):
    fit = "pass" if itself == (0.98, 1.02) else "unfit"
    ratio = Ratio(1.0, interval, interval, 320)
    assert figures.judged(ratio, decision(*itself, fit), 0.05) == verdict


@pytest.mark.slow
def test_stored_times_give_no_verdict_on_a_noisy_machine(run, out, before, monkeypatch):
    """The machine was quiet when they were taken: a busy one now makes everything slower."""
    wild = random.Random(0)
    monkeypatch.setattr(
        fake.FakeCall, "run", lambda self: 9 * self._seconds * wild.lognormvariate(0, 1.5)
    )
    code, said, _ = run("check", out, "--baseline-report", before, *FAST, "--json")
    assert code == 4 and figures_of(said)["latency p50"]["verdict"] == "unfit"
    code, _, err = run("check", out, "--baseline-report", before, *FAST)
    assert code == 4 and "the candidate against itself differs by" in err


@pytest.mark.slow
def test_far_slower_is_a_regression_on_a_noisy_machine_too(run, out, tmp_path, monkeypatch):
    slow = make_output(tmp_path / "slow", macs=40_000_000_000)
    wild = random.Random(0)
    monkeypatch.setattr(
        fake.FakeCall, "run", lambda self: self._seconds * wild.lognormvariate(0, 1.5)
    )
    code, said, err = run("check", slow, "--baseline", out, "--no-loop", "--json")
    assert json.loads(said)["noise"][0]["verdict"] == "unfit"
    assert code == 1 and "REGRESSED" in err
