"""Estimates before a first run: the rate of calls, the stages, and what the recipe says."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import pytest
import torch
from support.command import diffc_in_process as diffc
from support.quick import QUICK
from support.runs import compile_quickly

from diffc.cli.estimates import plan_estimates
from diffc.data.recipe_of_model import recipe_of_model
from diffc.durations import Rate, keep_rate, known_rate
from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.stages import call_rate
from diffc.stages.call_rate import measure_rate
from diffc.stages.estimate import out_bytes, stage_seconds, training_bytes, trainings
from diffc.stages.expected import expected_work
from diffc_export.cache import cache_folder
from diffc_export.events import Progress, drain

RATE = Rate(call_seconds=0.01, training_seconds=0.03, params=4_000_000)


@pytest.fixture
def model(tiny_model):
    source = find_source(tiny_model)
    return source, recipe_of_model(source, None, QUICK)


def changed(recipe: Recipe, section: str, **options):
    part = getattr(recipe, section).model_copy(update=options)
    return recipe.model_copy(update={section: part})


def test_its_stages_are_those_of_a_run_in_their_order(compiled, model):
    report = compiled[1]
    source, recipe = model
    recipe = changed(recipe, "build", target=tuple(dict.fromkeys(r.target for r in report.targets)))
    expected = stage_seconds(source, recipe, "bench", RATE)
    done = [stage.name for stage in report.stages]
    assert [name for name in expected if name in done] == done
    # of samples that no metric takes there is no frontier
    assert set(expected) - set(done) <= {f"frontier-{name}" for name in recipe.build.target}
    assert all(math.isfinite(value) and value >= 0 for value in expected.values())


def test_networks_that_are_not_cut_have_stages_too():
    """Those of a text-to-image pipeline: else 'stage 6 of 17' ends as '23 of 23'."""
    source = find_source("demo-text")
    expected = stage_seconds(source, recipe_of_model(source, None, {}), "bench", RATE)
    networks = ("dense", "compressed", "decoder", "encoder", "text_encoder")
    assert [name for name in expected if name.startswith("build")] == [
        f"build-ort-cpu-{name}" for name in networks
    ]
    exports = [name for name in expected if name.startswith("export")]
    assert exports == [f"export-{name}" for name in (*networks[:4], "text", networks[4])]


@pytest.mark.parametrize(
    ("stop", "last"), [("plan", "plan"), ("prune", "prune"), ("distill", "samples")]
)
def test_it_ends_where_the_run_does(model, stop, last):
    assert list(stage_seconds(*model, stop, RATE))[-1] == last


def test_more_work_takes_longer(model):
    source, recipe = model
    recipe = changed(recipe, "distill", steps=10, quality_every=0)
    base = stage_seconds(source, recipe, "bench", RATE)
    steps = changed(recipe, "distill", steps=1010)
    rows = 1000 * steps.distill.batch * (1 / 3 + 1 - recipe.prune.ratio)
    longer = stage_seconds(source, steps, "bench", RATE)
    assert longer["distill"] - base["distill"] == pytest.approx(rows * RATE.training_seconds)
    images = changed(recipe, "data", images=recipe.data.images + 100)
    more = stage_seconds(source, images, "bench", RATE)["data"] - base["data"]
    assert more == pytest.approx(100 * recipe.data.steps * RATE.call_seconds)
    slower = Rate(0.1, 0.3, RATE.params)
    assert sum(stage_seconds(source, recipe, "bench", slower).values()) > sum(base.values())


def test_features_of_targets_that_come_again_are_taken_once(model):
    """A row of features is half of the dense model and back; that of a target a half more."""
    source, recipe = model
    recipe = recipe.model_copy(update={"loops": ("ddim:2",)})

    def features(**options):
        def seconds(weight: float) -> float:
            loop = recipe.distill.loop.model_copy(update={"features": weight, **options})
            run = changed(recipe, "distill", aim="loop", steps=0, loop=loop)
            return stage_seconds(source, run, "distill", RATE)["distill-loop"]

        return (seconds(1.0) - seconds(0.0)) / (options["steps"] * 8) / RATE.training_seconds

    assert features(steps=16, batch=8, trajectories=1000) == pytest.approx(1 / 2)
    assert features(steps=16, batch=8, trajectories=8) == pytest.approx(1 / 3 + 1 / 6 / 8)


def test_memory_and_disk_are_counted():
    counted = 20 * 2_000_000 + 4 * 4_000_000
    assert training_bytes(4_000_000, 2_000_000, None) == counted
    gradients = 4 * 2_000_000
    assert training_bytes(4_000_000, 2_000_000, gradients + 1000) == counted + 1000
    assert out_bytes(10, 5, targets=2) == 4 * (2 * 5 + 3 * 15)


def test_every_training_of_a_run_is_counted():
    recipe = Recipe()
    both = changed(recipe, "distill", aim="loop")
    calls = {"distill": 10_000_000, "distill-loop": 90_000_000}
    each = trainings(4_000_000, 2_000_000, both, calls)
    kept = 16 * 2_000_000
    assert each["distill"] == kept + 4 * 4_000_000 + 10_000_000
    features = 4_000_000 if both.distill.loop.features else 0
    assert each["distill-loop"] == kept + 4 * features + 90_000_000
    assert set(trainings(4, 2, changed(both, "distill", steps=0), {})) == {"distill-loop"}
    assert trainings(4, 2, changed(recipe, "distill", steps=0, aim="all-steps"), {}) == {}


def test_calls_are_timed(model, monkeypatch):
    """By the processor's time: other programs make either time longer."""
    source, recipe = model
    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr("diffc.stages.call_rate.time", clock)
    rate = drain(measure_rate(source, recipe, seconds=0.3))
    assert rate == known_rate(source.class_name, source.config, recipe)
    assert 0 < rate.call_seconds < rate.training_seconds
    assert rate.params == sum(math.prod(shape) for shape in _shapes(source))


def test_a_rate_that_was_taken_beside_other_work_says_so_and_is_taken_anew(
    model, monkeypatch, tmp_path
):
    source, recipe = model
    rates = iter([Rate(9.0, 27.0, 10**6, shared=True), Rate(0.01, 0.03, 10**6)])

    def measured(*_):
        yield Progress(0, None)
        keep_rate(source.class_name, source.config, recipe, rate := next(rates))
        return rate

    monkeypatch.setattr("diffc.stages.call_rate.measure_rate", measured)
    monkeypatch.setattr("diffc.stages.call_memory.call_bytes", lambda *_: {})
    runs = [
        drain(expected_work(source, recipe, tmp_path / "out", "plan", estimated=True))
        for _ in range(3)
    ]
    assert runs[0].by == "the rate of its calls, timed while other programs ran"
    assert runs[1].by == "the rate of its calls" and runs[1].expected == runs[2].expected
    assert [run.rough for run in runs] == [True, False, False]
    assert sum(runs[0].expected.values()) > 10 * sum(runs[1].expected.values())


@pytest.mark.slow
def test_a_plan_gives_no_time_by_a_rate_that_was_taken_beside_other_work(model):
    source, recipe = model
    plan = {"model": {"params": 4, "macs": 4}, "compressed": {"params": 2, "macs": 2}}
    for shared in (True, False):
        rate = Rate(9.0, 27.0, 10**6, shared=shared)
        keep_rate(source.class_name, source.config, recipe, rate)
        assert (plan_estimates(plan, recipe, source)["seconds"] is None) == shared


@pytest.mark.parametrize(("load", "shared"), [(0.4, False), (2.9, False), (9.0, True)])
def test_the_load_of_four_cores_tells_whether_they_are_shared(load, shared, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(call_rate, "cores", lambda: 4)
    assert call_rate._is_shared() == shared


def _shapes(source):
    from safetensors import safe_open

    for path in source.weights:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                yield file.get_slice(name).get_shape()


def test_a_network_that_has_no_room_has_no_estimate(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("diffc.stages.call_rate._forward", full)
    assert drain(measure_rate(*model)) is None


def test_without_room_for_the_backward_pass_it_counts_as_two_more_calls(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("diffc.stages.call_rate._backward", full)
    rate = drain(measure_rate(*model, seconds=0.3))
    assert rate.training_seconds == 3 * rate.call_seconds


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"call_seconds": NaN}', "null"])
def test_a_damaged_rate_is_none(model, text):
    source, recipe = model
    keep_rate(source.class_name, source.config, recipe, RATE)
    (path,) = (cache_folder() / "durations" / "rates").iterdir()
    path.write_text(text)
    assert known_rate(source.class_name, source.config, recipe) is None


@pytest.mark.slow
def test_a_first_run_says_how_long_it_will_take(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(call_rate, "_is_shared", lambda: False)
    quick = tmp_path / "quick.yaml"
    quick.write_text(json.dumps(QUICK))  # JSON is YAML
    args = ("plan", tiny_model, "--recipe", quick, "--ratio", "0.3")
    done = diffc(*args, "--out", tmp_path / "out")
    words = " ".join(done.stderr.split())
    assert "stage 1 of 3, about" in words and "by the rate of its calls" in words
    assert "the estimate was" in words and "of disk" in words
    shown = diffc(*args, "--json")
    assert json.loads(shown.stdout)["estimates"]["seconds"] > 0
    again = diffc("plan", tiny_model, "--ratio", "0.2,0.3")
    assert "the time is by the rate of its calls" in " ".join(again.stdout.split())


def test_nothing_is_tried_where_nobody_waits(compiled_cache, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("diffc.stages.call_rate.measure_rate", None)
    compile_quickly(tiny_model, tmp_path / "a", "plan")


@pytest.mark.slow
def test_a_plan_says_so_where_no_time_is_known(tiny_model):
    words = " ".join(diffc("plan", tiny_model).stdout.split())
    assert "the time is not known here yet" in words and "of memory" in words
