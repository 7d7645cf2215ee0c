"""A figure that cannot be measured here is absent, and the rest is judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.gate_folders import (
    FAST,
    add_target,
    change_engine,
    edit,
    figures_of,
    forbid_running,
)

from diffc.errors import UnavailableError
from diffc.gate import figures
from diffc_export.targets import fake, target
from diffc_export.targets.base import Status


def test_a_target_that_cannot_run_here_is_absent_and_the_rest_judged(
    run, out, before, monkeypatch, measured
):
    for folder in (out, before):
        add_target(folder, "ort-cpu")
    forbid_running(monkeypatch, "ort-cpu")
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    found = [f for f in json.loads(said)["figures"] if f["name"] == "latency p50"]
    assert code == 0
    assert {f["target"]: f["verdict"] for f in found} == {"fake": "pass", "ort-cpu": "absent"}
    assert "no GPU here" in next(f["note"] for f in found if f["target"] == "ort-cpu")
    measured.clear()
    named = ("--target", "ort-cpu", "--target", "fake")
    for flag in ("--baseline", "--baseline-report"):
        code, _, err = run("check", out, flag, before, *named, *FAST)
        assert code == 2 and "ort-cpu fp32 cannot be measured here: no GPU here" in err
        assert not measured
        assert run("check", out, flag, before, "--target", "fake", *FAST)[0] == 0
        measured.clear()


def test_nothing_that_can_run_is_no_pass(run, out, before, monkeypatch, measured):
    forbid_running(monkeypatch, "fake")
    for flag in ("--baseline", "--baseline-report"):
        code, _, err = run("check", out, flag, before, *FAST)
        assert code == 3 and "no GPU here" in err and not measured


def test_an_engine_that_does_not_load_is_found_before_the_first_is_timed(
    run, out, before, monkeypatch
):
    for folder in (out, before):
        add_target(folder, "ort-cpu")
    timed = []
    times = figures.same_calls
    monkeypatch.setattr(figures, "same_calls", lambda *a: timed.append(1) or times(*a))

    def refuse(self, folder, threads=None):
        assert not timed
        raise UnavailableError("its library is gone")

    monkeypatch.setattr(type(target("ort-cpu")), "load", refuse)
    monkeypatch.setattr(type(target("ort-cpu")), "status", lambda self: Status(True, True, True))
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    notes = [f["note"] for f in json.loads(said)["figures"] if f["target"] == "ort-cpu"]
    assert code == 0 and any("its library is gone" in note for note in notes)
    timed.clear()
    code, _, err = run("check", out, "--baseline", before, "--target", "ort-cpu", "--target",
                       "fake", *FAST)  # fmt: skip
    assert code == 2 and "its library is gone" in err and not timed


def test_memory_that_cannot_be_measured_is_absent(run, out, before, monkeypatch):
    def fail(*_, **__):
        raise UnavailableError("the memory of x cannot be measured: ImportError: not built")

    monkeypatch.setattr(figures, "measure_memory", fail)
    for flag in ("--baseline", "--baseline-report"):
        code, said, _ = run("check", out, flag, before, *FAST, "--json")
        assert code == 0
        assert figures_of(said)["peak memory"]["verdict"] == "absent"
        assert "not built" in figures_of(said)["peak memory"]["note"]


def test_a_baseline_of_zero_is_no_share(run, out, before):
    edit(before / "engines/fake/compressed/engine.json", lambda c: c.update(engine_bytes=0))
    said = run("check", out, "--baseline", before, *FAST, "--json")[1]
    size = figures_of(said)["engine size"]
    assert size["verdict"] == "absent" and "no engine size to take 5% of" in size["note"]


@pytest.mark.parametrize("times", [[], [0.0, 0.0], [1.0, 0.0]])
def test_stored_times_that_are_none_are_not_judged(run, out, before, times):
    def change(report):
        report["targets"][0]["compressed"]["samples_ms"] = times

    edit(before / "report.json", change)
    code, said, _ = run("check", out, "--baseline-report", before, *FAST, "--json")
    assert code == 3 and "no times of it" in figures_of(said)["latency p50"]["note"]


def test_a_candidate_that_gives_nan_has_regressed(run, out, before, monkeypatch):
    bind = fake.FakeEngine.bind

    def broken(self, inputs):
        bound = bind(self, inputs)
        if "compressed" in str(self.folder) and "before" not in str(self.folder):
            bound._outputs = {k: np.full_like(v, np.nan) for k, v in bound._outputs.items()}
        return bound

    load = fake.Fake.load

    def with_folder(self, folder, threads=None):
        runner = load(self, folder, threads)
        runner.folder = folder
        return runner

    monkeypatch.setattr(fake.Fake, "load", with_folder)
    monkeypatch.setattr(fake.FakeEngine, "bind", broken)
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 1 and "output has NaN or infinity" in err


def test_a_loop_that_gives_nan_has_regressed(run, out, before, monkeypatch):
    from diffc_runtime.errors import UnfitEngine

    def call_of(runner, options):
        def call():
            if "out" in runner.info.details:
                raise UnfitEngine("the engine gave values that are not numbers (NaN or infinity)")
            return 0.01

        return call

    change_engine(out, details={"out": 1})
    monkeypatch.setattr(figures, "loop_call", call_of)
    code, _, err = run("check", out, "--baseline", before,
                       "--most-seconds", "1")  # fmt: skip
    assert code == 1 and "loop p50, 50 steps DDIM" in err and "not numbers" in err
    code, said, _ = run("check", before, "--baseline", out,
                        "--most-seconds", "1", "--json")  # fmt: skip
    assert code == 0 and figures_of(said)["loop p50, 50 steps DDIM"]["verdict"] == "absent"


def test_an_engine_that_names_no_scheduler_has_no_loop(run, out, before):
    for folder in (out, before):
        edit(folder / "engines/fake/compressed/engine.json", lambda c: c["source"].pop("scheduler"))
    code, said, _ = run("check", out, "--baseline", before, "--most-seconds", "1", "--json")
    assert code == 0 and "names no scheduler" in figures_of(said)["loop p50, 50 steps DDIM"]["note"]
