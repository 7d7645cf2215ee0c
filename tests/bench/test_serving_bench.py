"""bench/serving.py: when it refuses to measure, and what its result says of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from bench import served_step, serving


def test_a_busy_machine_is_refused_unless_it_is_said():
    with pytest.raises(SystemExit, match=r"not quiet \(load 3\.0, below 1 needed\)"):
        serving.check_quiet(3.0, busy=False)
    serving.check_quiet(3.0, busy=True)
    serving.check_quiet(0.5, busy=False)


def test_the_result_has_a_date_and_says_whether_it_was_quiet():
    found = serving.about(3.0, threads=1)
    assert found["date"][:2] == "20"
    assert (found["environment"]["load_average"], found["environment"]["quiet"]) == (3.0, False)
    assert serving.about(0.5, threads=1)["environment"]["quiet"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processor_time_is_that_of_all_processes():
    """A shell that starts a Python that works for 0.5 s of processor time."""
    work = "import time; [0 for _ in iter(lambda: time.process_time() < 0.5, False)]"
    code = f'"{sys.executable}" -c "{work}; print(1, flush=True); time.sleep(60)" & wait'
    child = subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert served_step.processor_seconds(child.pid) >= 0.45
    finally:
        os.killpg(child.pid, 9)
        child.wait()


def test_every_call_has_its_turn_and_ratios_are_of_pairs(monkeypatch):
    """By a clock that only the calls move: one takes three times as long as the other."""
    clock, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock[0] += seconds

    monkeypatch.setattr(served_step.time, "perf_counter", lambda: clock[0])
    calls = {
        "engine": lambda: call("engine", 0.2),
        "served": lambda: call("served", 0.6),
    }
    turns = served_step.in_turn(calls, 20, {"engine": os.getpid()})
    assert {name: order.count(name) for name in calls} == {"engine": 21, "served": 21}
    assert order[2:] != ["engine", "served"] * 20  # the order within a round changes
    over = turns.over("served", "engine")
    assert over["pairs"] == 20
    assert [over["median"], *over["ci95"]] == pytest.approx([3, 3, 3])
    assert list(turns.processor) == ["engine"]
    assert turns.over("served", "engine", "served")["median"] == pytest.approx(3 / 4)


def test_a_step_is_the_sum_of_its_parts():
    """Two images of three steps: 6 calls of the denoiser, 2 of the decoder."""
    spent = {"queue": 1, "compute_input": 2, "compute_infer": 30, "compute_output": 3}
    denoiser = {part: ns * 6_000_000 for part, ns in spent.items()}
    decoder = {part: ns * 2_000_000 for part, ns in spent.items()}
    before = {name: dict.fromkeys((*spent, "calls"), 5) for name in ("denoiser", "decoder")}
    after = {
        "denoiser": {part: ns + 5 for part, ns in denoiser.items()} | {"calls": 11},
        "decoder": {part: ns + 5 for part, ns in decoder.items()} | {"calls": 7},
    }
    seconds = {"engine": np.array([0.084, 0.084]), "served": np.array([0.15, 0.15])}
    step = served_step.step_parts(before, after, seconds, 3)
    assert step == pytest.approx(
        {"step": 50, "engine": 28, "to_the_engine": 2, "server": 6, "decoder": 12, "loop": 2}
    )
    parts = ("engine", "to_the_engine", "server", "decoder", "loop")
    assert sum(step[part] for part in parts) == pytest.approx(step["step"])
