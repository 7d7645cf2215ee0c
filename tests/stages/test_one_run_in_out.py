"""Two runs in one output folder: the second is refused before it touches anything."""

from __future__ import annotations

import json

import pytest

from diffc.errors import RequestError
from diffc.locks import out_lock
from diffc.output import write_lock_of
from diffc.recipe import Recipe
from diffc.runner import StageEvent, StageResult
from diffc.stages import order
from diffc.stages.order import finish, run
from diffc.stages.request import Request
from diffc_export.cache import cache_folder
from diffc_export.events import drain, follow


@pytest.fixture
def out(tmp_path):
    """A folder with the records of a plan alone."""
    out = tmp_path / "OUT"
    model = {"name": "m", "folder": "m", "class_name": "UNet2DModel", "digest": "d"}
    write_lock_of(out, model, Recipe(), {"plan": "key"})
    (out / ".diffc").mkdir()
    (out / ".diffc" / "plan.json").write_text(json.dumps({"key": "key"}))
    return out


def files(out):
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "work",
    [
        lambda out: run(Request(None, Recipe(), out)),
        lambda out: finish(out, Recipe(), "bench"),
    ],
    ids=["run", "finish"],
)
def test_a_second_run_is_refused(out, work, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(out)
    before = files(out)
    with out_lock(out, cache_folder()):
        for name in (out, link):
            with pytest.raises(RequestError, match=f"another diffc works in {name}"):
                drain(work(name))
    assert files(out) == before


def test_runs_in_two_folders_and_one_after_the_other_go_on(out, tmp_path):
    cache = cache_folder()
    with out_lock(out, cache), out_lock(tmp_path / "other", cache):
        pass
    with out_lock(out, cache):
        pass


def test_engines_that_name_their_folder_are_the_ones_of_out(tmp_path, monkeypatch):
    """The new run lies beside the old one first: torch's engines are built again in its place."""

    def chain(request, *, origin=None):
        results = []
        for name, key in (("data", "same"), ("build-torch-dense", str(request.out))):
            done = StageResult(name, key, request.out, None, 1.0, 0, cached=origin is None)
            is_there = origin is None and key == "same"
            yield StageEvent(name, "started")
            yield StageEvent(name, "reused" if is_there else "finished", done=done)
            results.append(done)
        return results

    monkeypatch.setattr(order, "_chain", chain)
    monkeypatch.setattr(order, "write_lock", lambda *_: None)
    shown = []
    out = tmp_path / "OUT"
    done = follow(order._aside(Request(None, Recipe(), out)), shown.append)
    assert [(stage.name, stage.key) for stage in done] == [
        ("data", "same"),
        ("build-torch-dense", str(out)),
    ]
    assert [event.stage for event in shown if event.done][2:] == ["build-torch-dense"]
