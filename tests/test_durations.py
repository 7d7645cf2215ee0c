"""When a run will be done: from an earlier run of the same kind, and from nothing else."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import pytest
from rich.console import Console
from support.command import diffc_in_process as diffc

from diffc.cli import progress as module
from diffc.cli.progress import Overall, follow_live, follow_plainly, left_words
from diffc.durations import expected_seconds, keep_seconds
from diffc.recipe import resolve
from diffc.report.units import seconds
from diffc.runner import Needs, StageEvent
from diffc_export.cache import cache_folder
from diffc_export.events import Progress
from diffc_runtime.machine import cpu, gpu


@dataclass(frozen=True)
class Done:
    """A stage that took so long."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Clock:
    """A monotonic clock that stands still."""

    now: float

    def monotonic(self) -> float:
        return self.now


def recipe_with(**flags):
    return resolve(family="", flags={"distill": {"steps": 100}, **flags})


STAGES = [Done("data", 10.0), Done("distill", 200.0), Done("samples", 30.0)]


def test_the_same_again_takes_what_it_took():
    keep_seconds("d", recipe_with(), "bench", STAGES)
    expected = expected_seconds("d", recipe_with(), "bench")
    assert expected == {"data": 10.0, "distill": 200.0, "samples": 30.0}
    assert list(expected) == ["data", "distill", "samples"]


@pytest.mark.parametrize("flags", [{"prune": {"ratio": 0.3}}, {"seed": 7}])
def test_another_ratio_or_seed_is_of_the_same_kind(flags):
    keep_seconds("d", recipe_with(), "bench", STAGES)
    assert expected_seconds("d", recipe_with(**flags), "bench")["samples"] == 30.0


def test_distillation_takes_its_time_by_steps():
    keep_seconds("d", recipe_with(), "bench", STAGES)
    recipe = recipe_with(distill={"steps": 50})
    assert expected_seconds("d", recipe, "bench")["distill"] == pytest.approx(100.0)
    keep_seconds("d", recipe_with(distill={"steps": 0}), "bench", [Done("distill", 0.1)])
    assert expected_seconds("d", recipe, "bench")["distill"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("digest", "flags", "stop"),
    [
        ("other", {}, "bench"),
        ("d", {}, "distill"),
        ("d", {"quality": {"images": 99}}, "bench"),
        ("d", {"build": {"precision": "fp16"}}, "bench"),
        ("d", {"prune": {"ratio": 0}}, "bench"),
    ],
)
def test_what_was_not_measured_has_no_estimate(digest, flags, stop):
    keep_seconds("d", recipe_with(), "bench", STAGES)
    assert expected_seconds(digest, recipe_with(**flags), stop) == {}


def test_another_processor_has_no_estimate(monkeypatch):
    keep_seconds("d", recipe_with(), "bench", STAGES)
    monkeypatch.setattr("diffc.durations.cpu_fingerprint", lambda: {"cpu": "another"})
    assert expected_seconds("d", recipe_with(), "bench") == {}


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"data": "x"}', '{"data": -1}', '{"a": NaN}'])
def test_a_damaged_file_is_as_good_as_none(text):
    keep_seconds("d", recipe_with(), "bench", STAGES)
    (path,) = (cache_folder() / "durations").iterdir()
    path.write_text(text)
    assert expected_seconds("d", recipe_with(), "bench") == {}


def stage(name, kind, **more):
    return StageEvent(name, kind, **more)


EXPECTED = {"data": 60.0, "distill": 600.0, "samples": 120.0}
PASSED = stage("preflight", "passed", expected=EXPECTED, by="an earlier run")


def overall_after(*events):
    overall = Overall()
    for event in events:
        overall.note(event)
    return overall


def test_before_a_stage_shows_its_speed_the_earlier_run_counts(monkeypatch):
    monkeypatch.setattr(module, "time", Clock(0.0))
    overall = overall_after(stage("preflight", "started"), PASSED, stage("data", "started"))
    monkeypatch.setattr(module, "time", Clock(60.0))
    overall.note(stage("data", "finished", done=object()))
    overall.note(stage("distill", "started"))
    assert overall.place == "stage 2 of 3"
    monkeypatch.setattr(module, "time", Clock(160.0))
    overall.note(stage("distill", "progress", progress=Progress(5, 100)))
    assert overall.seconds_left() == pytest.approx(500 + 120)


def test_then_its_own_speed_counts(monkeypatch):
    monkeypatch.setattr(module, "time", Clock(0.0))
    overall = overall_after(PASSED, stage("data", "started"))
    monkeypatch.setattr(module, "time", Clock(30.0))
    overall.note(stage("data", "progress", progress=Progress(25, 100)))
    assert overall.seconds_left() == pytest.approx(90 + 720)


def test_later_stages_are_as_fast_as_the_first_ones_were(monkeypatch):
    monkeypatch.setattr(module, "time", Clock(0.0))
    overall = overall_after(PASSED, stage("data", "started"))
    monkeypatch.setattr(module, "time", Clock(30.0))  # 60 s were expected
    overall.note(stage("data", "finished", done=object()))
    overall.note(stage("distill", "started"))
    assert overall.seconds_left() == pytest.approx((600 + 120) / 2)


def test_beside_other_programs_fewer_threads_are_offered_where_nobody_chose_them(monkeypatch):
    monkeypatch.setattr(cpu, "cores", lambda: 2)
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    begun = stage("data", "progress", progress=Progress(1, 100))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    overall = overall_after(ROUGH, stage("data", "started"), begun)
    assert "work is done. Beside them OMP_NUM_THREADS=1 can be" in overall.announcement(begun)
    for name, value in (("cores", 1), ("gpus", ("a GPU",))):
        monkeypatch.setattr(cpu if name == "cores" else gpu, name, lambda value=value: value)
        overall = overall_after(ROUGH, stage("data", "started"), begun)
        assert "OMP_NUM_THREADS" not in overall.announcement(begun)
        monkeypatch.setattr(cpu, "cores", lambda: 2)


ROUGH = stage("preflight", "passed", expected=EXPECTED, by="its calls", rough=True)


def test_beside_other_programs_the_runs_own_work_alone_tells_the_time_left(monkeypatch):
    """EXPECTED is a hundred times too long here, in which the stages' shares are still right."""
    monkeypatch.setattr(module, "time", Clock(0.0))
    overall = overall_after(ROUGH, stage("data", "started"))
    begun = stage("data", "progress", progress=Progress(1, 100))
    overall.note(begun)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = overall.announcement(begun)
    assert words == "stage 1 of 3; other programs run, so the time left shows once work is done"
    assert (overall.place, overall.left) == ("stage 1 of 3", "")
    monkeypatch.setattr(module, "time", Clock(0.3))
    overall.note(stage("data", "progress", progress=Progress(50, 100)))
    assert overall.announcement(begun) == ""
    assert overall.seconds_left() == pytest.approx(0.3 + (600 + 120) / 100)
    monkeypatch.setattr(module, "time", Clock(0.6))
    overall.note(stage("data", "finished", done=object()))
    overall.note(stage("distill", "started"))
    assert overall.seconds_left() == pytest.approx((600 + 120) / 100)
    monkeypatch.setattr(module, "time", Clock(8.0))
    assert overall.outcome() == "done in 8.0 s"


def test_the_time_of_a_run_counts_what_came_before_the_first_progress(monkeypatch):
    """A stage that loads a model for 12 of its 20 seconds before it says anything."""
    monkeypatch.setattr(module, "time", Clock(100.0))
    overall = overall_after(PASSED, stage("data", "started"))
    monkeypatch.setattr(module, "time", Clock(112.0))
    begun = stage("data", "progress", progress=Progress(1, 100))
    overall.note(begun)
    left = overall.seconds_left()
    assert overall.announcement(begun) and left is not None
    monkeypatch.setattr(module, "time", Clock(120.0))
    assert overall.outcome().startswith(f"done in 20.0 s; the estimate was {seconds(12 + left)}")


def test_a_stage_that_was_reused_tells_nothing_of_speed(monkeypatch):
    monkeypatch.setattr(module, "time", Clock(0.0))
    overall = overall_after(PASSED, stage("data", "started"))
    overall.note(stage("data", "reused", done=object()))
    overall.note(stage("distill", "started"))
    assert overall.seconds_left() == pytest.approx(600 + 120)


def test_a_stage_that_was_not_there_before_has_no_estimate():
    overall = overall_after(PASSED, stage("repair", "started"))
    assert (overall.place, overall.left) == ("stage 1 of 3", "")
    nothing = overall_after(stage("preflight", "passed"), stage("data", "started"))
    assert (nothing.place, nothing.left) == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "about 10 s left"),
        (44, "about 40 s left"),
        (100, "about 2 min left"),
        (540, "about 9 min left"),
        (7900, "about 2 h 10 min left"),
        (111_600, "about 31 h left"),
    ],
)
def test_words(seconds, words):
    assert left_words(seconds) == words


def run_events():
    yield stage("preflight", "started")
    yield PASSED
    yield stage("data", "started")
    yield stage("data", "progress", progress=Progress(0, 10, "images"))
    yield stage("data", "progress", progress=Progress(1, 10, "images"))
    yield stage("data", "finished", done=Done("data", 6.0))
    return "end"


def test_a_log_says_it_once():
    text = io.StringIO()
    assert follow_plainly(run_events(), Console(file=text, width=80)) == "end"
    words = " ".join(text.getvalue().split())
    assert words.count("by an earlier run") == 1
    assert "stage 1 of 3, about 13 min left (estimated by an earlier run)" in words
    assert re.search(r"done in \d+\.\d s; the estimate was 1[23] min .. s \(-100%\)", words)


def test_what_is_needed_is_said_with_it():
    needs = Needs(training_bytes={"distill": 310_000_000}, disk_bytes=73_000_000)
    passed = stage("preflight", "passed", expected=EXPECTED, by="its calls", needs=needs)
    begun = stage("data", "progress", progress=Progress(0, 10))
    overall = overall_after(passed, stage("data", "started"))
    words = overall.announcement(begun)
    assert words.endswith("Distillation needs about 310 MB of memory, OUT about 73 MB of disk")
    assert overall.announcement(begun) == ""


def test_nothing_is_said_of_a_training_that_was_reused():
    """Engines for another target, say: every stage before theirs is there."""
    needs = Needs(training_bytes={"distill": 7_000_000, "samples": 5_000_000}, disk_bytes=1)
    passed = stage("preflight", "passed", expected=EXPECTED, by="its calls", needs=needs)
    before = [passed, stage("distill", "started"), stage("distill", "reused", done=object())]
    begun = stage("samples", "progress", progress=Progress(0, 10))
    words = overall_after(*before, stage("samples", "started")).announcement(begun)
    assert "Distillation needs about 5 MB of memory" in words
    only = stage("preflight", "passed", expected=EXPECTED, needs=Needs({"distill": 7_000_000}, 1))
    words = overall_after(only, *before[1:], stage("samples", "started")).announcement(begun)
    assert "Distillation" not in words and "OUT about" in words


def test_a_run_in_which_nothing_works_has_no_estimate_to_judge():
    overall = overall_after(
        PASSED, stage("data", "started"), stage("data", "reused", done=object())
    )
    assert (overall.announcement(stage("data", "reused")), overall.outcome()) == ("", "")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_shows_it_below_the_stage(width):
    text = io.StringIO()
    screen = Console(file=text, width=width, force_terminal=True)

    def slowly():
        for event in [*run_events()][:4]:
            yield event
            for progress in screen._live_stack:
                progress.refresh()
        return "end"

    assert follow_live(slowly(), screen) == "end"
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "stage 1 of 3" in shown


@pytest.mark.slow
def test_a_second_ratio_of_the_same_model_knows_how_long(compiled_cache, tiny_model, tmp_path):
    args = ("plan", tiny_model, "--out")
    assert diffc(*args, tmp_path / "a", "--ratio", "0.2").returncode == 0
    done = diffc(*args, tmp_path / "b", "--ratio", "0.3")
    assert done.returncode == 0
    assert "by an earlier run" in done.stderr
