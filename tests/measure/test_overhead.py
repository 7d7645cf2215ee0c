"""bench/overhead.py: its clock counts each part alone, and its parts add up to the whole."""

import shutil
from types import SimpleNamespace

import pytest

from bench import overhead
from bench.overhead import Clock, taken_apart


@pytest.fixture
def sleep(monkeypatch):
    """A clock that only goes on while somebody sleeps; this is how one sleeps."""
    now = [7.0]

    def pass_by(seconds):
        now[0] += seconds

    monkeypatch.setattr(overhead, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return pass_by


def test_an_inner_part_stops_the_outer_one(sleep):
    clock = Clock()
    with clock.part("load"):
        sleep(5)
        clock.timed("hashes", sleep)(10)
        sleep(6)
    assert clock.seconds == pytest.approx({"load": 11, "hashes": 10})


def test_a_part_that_fails_is_closed(sleep):
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock.part("calls"):
        sleep(1)
        raise ZeroDivisionError
    sleep(2)  # nobody's
    with clock.part("load"):
        sleep(3)
    assert clock.seconds == pytest.approx({"calls": 1, "load": 3})


@pytest.mark.slow
def test_a_run_is_taken_apart(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(compiled[0], tmp_path / "out")
    found = taken_apart(copy)
    parts = ("build", "load", "calls", "rests", "processes", "own")
    assert all(found[part] > 0 for part in parts)
    assert sum(found[part] for part in parts) == pytest.approx(found["wall"])
    assert found["share"] == pytest.approx(found["own"] / (found["wall"] - found["own"]))
