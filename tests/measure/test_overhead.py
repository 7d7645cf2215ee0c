"""bench/overhead.py: its clock counts each part alone, and its parts add up to the whole."""

import shutil
import time

import pytest

from bench.overhead import Clock, taken_apart


def test_an_inner_part_stops_the_outer_one():
    clock = Clock()
    start = time.perf_counter()
    with clock.part("load"):
        time.sleep(0.05)
        clock.timed("hashes", time.sleep)(0.1)
        time.sleep(0.05)
    whole = time.perf_counter() - start
    assert clock.seconds["hashes"] == pytest.approx(0.1, abs=0.03)
    assert clock.seconds["load"] == pytest.approx(whole - clock.seconds["hashes"], abs=1e-3)


def test_a_part_that_fails_is_closed():
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock.part("calls"):
        raise ZeroDivisionError
    with clock.part("load"):
        time.sleep(0.02)
    assert clock.seconds["calls"] < 0.01 and clock.seconds["load"] >= 0.02


@pytest.mark.slow
def test_a_run_is_taken_apart(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(compiled[0], tmp_path / "out")
    found = taken_apart(copy)
    parts = ("build", "load", "calls", "rests", "processes", "own")
    assert all(found[part] > 0 for part in parts)
    assert sum(found[part] for part in parts) == pytest.approx(found["wall"])
    assert found["share"] == pytest.approx(found["own"] / (found["wall"] - found["own"]))
