"""Threads stay on their cores while engines are measured, and get their own back."""

import os
import threading

import pytest
from support.cores import CORES as ALL
from support.cores import every_core

from diffc.measure import pinning
from diffc.measure.engines import cores_of, open_usable_engines
from diffc.measure.pinning import choose_cores, pin_cores

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system has no affinity"
)
needs_two = pytest.mark.skipif(len(ALL) < 2, reason="one core only")


@pytest.fixture(autouse=True)
def every_core_of_the_session():
    with every_core():
        yield


def test_every_core_changes_nothing():
    with pin_cores(None) as cores:
        assert list(cores) == ALL and sorted(os.sched_getaffinity(0)) == ALL
    assert choose_cores(10_000) == tuple(ALL)


@needs_two
def test_all_threads_move_and_come_back():
    """One that was there before, and one that begins inside."""
    seen, go, end = {}, threading.Event(), threading.Event()

    def before():
        go.wait()
        seen["before"] = os.sched_getaffinity(0)
        end.wait()
        seen["after"] = os.sched_getaffinity(0)

    early = threading.Thread(target=before)
    early.start()
    late = threading.Thread(target=lambda: seen.update(inside=os.sched_getaffinity(0)))
    with pin_cores(1) as cores:
        assert len(cores) == 1 and os.sched_getaffinity(0) == set(cores)
        go.set()
        late.start()
        late.join()
        while "before" not in seen:
            pass
    end.set()
    early.join()
    assert seen["before"] == seen["inside"] == set(cores)
    assert sorted(seen["after"]) == sorted(os.sched_getaffinity(0)) == ALL


@needs_two
def test_cores_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), pin_cores(1):
        raise ZeroDivisionError
    assert sorted(os.sched_getaffinity(0)) == ALL


def test_physical_cores_come_first(monkeypatch):
    siblings = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    monkeypatch.setattr(pinning, "_siblings", siblings.get)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 1, 5})
    assert choose_cores(2) == (0, 1)
    assert choose_cores(3) == (0, 1, 4)
    assert choose_cores(4) == (0, 1, 4, 5)


@needs_two
def test_engines_run_on_as_many_cores_as_they_have_threads(engines):
    pytest.importorskip("onnxruntime")
    made = engines("ort-cpu")
    with open_usable_engines(made, 1) as (runners, _):
        inside = os.sched_getaffinity(0)
        infos = [runner.info for runner in runners.values()]
    assert inside == set(cores_of(infos, 1)) and len(inside) == 1
    assert sorted(os.sched_getaffinity(0)) == ALL
