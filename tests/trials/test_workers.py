"""Workers of a search: what is refused, what they send back, and two of Ray's own."""

from __future__ import annotations

import shutil
import socket

import pytest
from support.command import diffc_in_process
from support.toy_search import GOAL, OPTIONS, VALUES

import diffc
from diffc.errors import RequestError, UnavailableError
from diffc.trials.workers import Answer, Task, check_workers, keep_stages, work_on


@pytest.mark.parametrize("text", ["two", "http://head:10001", "rays", "ray://", "ray://head:x"])
def test_what_names_no_workers_is_refused(text):
    with pytest.raises(RequestError, match="--workers"):
        check_workers(text)


def test_ray_that_is_not_installed_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError) as caught:
        check_workers("ray")
    assert caught.value.hint == "pip install 'diffc[ray]'"


def test_no_cluster_at_the_address_is_a_line_before_any_work(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
    out = tmp_path / "out"
    done = diffc_in_process(
        "search", tiny_model, "--min-ssim", "0.5", "--workers", address, "--out", out
    )
    assert done.returncode == 2
    assert f"--workers {address}: no Ray cluster answers there" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert not out.exists()


def task_of(model, tmp_path, token):
    from diffc.models.source import find_source
    from diffc.recipe import Recipe, validate
    from diffc.trials.space import Space

    recipe = validate(Recipe, OPTIONS, "test")
    source = find_source(model)
    space = Space.of(source, recipe, {name: [*map(str, VALUES[name])] for name in VALUES})
    trained = space.trained(space.candidates[0])
    return Task(source, space.apply(trained).model_dump(mode="json"), trained, "whole", token)


@pytest.mark.slow
def test_a_cache_that_is_shared_sends_nothing(searched, searched_cache, tiny_model, tmp_path):
    _, _, cache = searched
    (cache / "trials").mkdir(exist_ok=True)
    (cache / "trials" / "token").touch()
    assert work_on(task_of(tiny_model, tmp_path, "token")) == Answer({})
    assert [path.name for path in (cache / "trials").iterdir()] == ["token"]
    (cache / "trials" / "token").unlink()


@pytest.mark.slow
def test_another_machines_stages_come_into_this_cache(
    searched, searched_cache, tiny_model, tmp_path
):
    """The search goes on with them as with its own."""
    from diffc.stage_records import read_record

    answer = work_on(task_of(tiny_model, tmp_path, "not in this cache"))
    assert answer.error is None and answer.stages
    mine = tmp_path / "mine"
    keep_stages(mine, answer)
    assert {path.name for path in (mine / "done").iterdir()} == set(answer.stages)
    for name in answer.stages:
        record = read_record(mine / "done" / name / "stage.json")
        assert record is not None and record.is_whole(mine / "done" / name)
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    keep_stages(mine, answer)  # what is there stays as it is
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*")} == before


@pytest.mark.slow
def test_what_a_worker_refuses_is_told_in_its_words(tiny_model, tmp_path):
    task = task_of(tiny_model, tmp_path, "token")
    recipe = {**task.recipe, "prune": {**task.recipe["prune"], "ratio": 0.999}}
    answer = work_on(Task(task.source, recipe, task.choice, task.kind, "token"))
    assert answer.error is not None
    assert "can be removed" in answer.error[0]


@pytest.mark.slow
def test_two_workers_of_ray_find_what_one_process_finds(
    searched, tiny_model, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    _, result, cache = searched
    mine = shutil.copytree(cache, tmp_path / "cache")
    for folder in (mine / "done").glob("distill-*"):
        shutil.rmtree(folder)  # so that there is something to train
    monkeypatch.setenv("DIFFC_CACHE", str(mine))
    notes = []
    again = diffc.search(
        tiny_model, out=tmp_path / "out", options=OPTIONS, min_ssim=GOAL, workers="ray",
        on_event=lambda event: notes.append(event.note), **VALUES,
    )  # fmt: skip
    assert any("a worker has trained it" in note for note in notes)
    assert again.chosen is not None
    same = {tuple(one.values.values()) for one in again.candidates}
    assert {tuple(one.values.values()) for one in result.candidates} <= same
    assert [path.name for path in (mine / "trials").iterdir()] == []


def dying_once(marker):
    """A worker's function that is killed in its first try; Ray takes a nested one as it is."""

    def work(task):
        import os
        import signal
        from pathlib import Path

        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Answer({})

    return work


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_is_done_again(tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from diffc.models.source import find_source
    from diffc.recipe import Recipe, validate
    from diffc.trials import workers
    from diffc.trials.trials import trial_of
    from diffc_export.events import drain

    marker = tmp_path / "killed"
    monkeypatch.setattr(workers, "work_on", dying_once(str(marker)))
    recipe = validate(Recipe, OPTIONS, "test")
    trial = trial_of(find_source(tiny_model), recipe, (("ratio", "0.2"),), "whole", tmp_path)
    crew = workers.workers_of("ray", gpus=False)
    try:
        drain(crew.train([trial]))
        assert marker.exists()
    finally:
        crew.close()
