"""diffc check compares what is alike, measures what can be, and loses no result."""

from __future__ import annotations

import json
import random
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from support.gate_folders import DIGEST, edit, make_engine, make_output

from diffc.errors import UnavailableError
from diffc.gate import figures
from diffc.gate.rule import Decision
from diffc.measure.results import Memory
from diffc.measure.statistics import Ratio
from diffc_export.targets import fake, target
from diffc_export.targets.base import Status

FAST = ("--loop-steps", "0", "--most-seconds", "1")
PEAK = 50_000_000


@pytest.fixture
def run(monkeypatch, capfd):
    """The command line in this process, without processes for memory: (code, stdout, stderr)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    memory = Memory(engine_bytes=3, peak_bytes=PEAK)
    monkeypatch.setattr(figures, "measure_memory", lambda *_, **__: memory)

    def call(*args):
        from diffc.cli import main

        monkeypatch.setattr("sys.argv", ["diffc", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err, said.err
        return ended.value.code or 0, said.out, said.err

    return call


@pytest.fixture
def measured(monkeypatch):
    """What was loaded: nothing, where a check ends before it measures."""
    loads, load = [], fake.Fake.load

    def noted(self, folder, threads=None):
        loads.append(folder)
        return load(self, folder, threads)

    monkeypatch.setattr(fake.Fake, "load", noted)
    return loads


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_output(tmp_path_factory.mktemp("made") / "out")

    def set_memory(report):
        report["targets"][0]["compressed"]["memory"]["peak_bytes"] = PEAK

    edit(folder / "report.json", set_memory)
    return folder


@pytest.fixture
def out(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def before(made, tmp_path):
    shutil.copytree(made, tmp_path / "before")
    return tmp_path / "before"


def rows(text):
    return {f["name"]: f for f in json.loads(text)["figures"]}


def add_target(out: Path, name: str) -> Path:
    """A second target's engine in OUT and in its report, made from the fake one's."""
    folder = out / "engines" / name / "compressed"
    shutil.copytree(out / "engines" / "fake" / "compressed", folder)
    edit(folder / "engine.json", lambda content: content.update(target=name))

    def both(report):
        report["targets"].append({**report["targets"][0], "target": name})

    edit(out / "report.json", both)
    return folder


def cannot_run(monkeypatch, name):
    status = Status(True, True, False, "no GPU here")
    monkeypatch.setattr(type(target(name)), "status", lambda self: status)


# Of the same model ------------------------------------------------------------------------------


def another(tmp_path, made, **changes):
    """A copy of OUT that is of another model."""
    other = tmp_path / "other"
    shutil.copytree(made, other)
    lock = (other / "recipe.lock.yaml").read_text()
    (other / "recipe.lock.yaml").write_text(lock.replace(DIGEST, "e" * 64))
    edit(other / "report.json", lambda report: report.update(digest="e" * 64, **changes))
    return other


@pytest.mark.parametrize("given", ["report.json", "", "engines/fake/compressed"])
def test_another_model_is_refused_whichever_way_it_is_given(run, out, made, tmp_path, given,
                                                            measured):  # fmt: skip
    other = another(tmp_path, made)
    flags = ["--baseline"] if given.startswith("engines") else ["--baseline-report"]
    for flag in [*flags, *(["--baseline"] if not given else [])]:
        code, _, err = run("check", out, flag, other / given, *FAST)
        assert code == 4 and "different models" in err
    code, _, _ = run("check", other / "engines/fake/compressed", "--baseline", out, *FAST)
    assert code == 4
    assert not measured


def test_a_report_carries_the_digest_wherever_it_lies(run, out, made, tmp_path):
    other = another(tmp_path, made)
    copied = tmp_path / "elsewhere.json"
    shutil.copyfile(other / "report.json", copied)
    assert run("check", out, "--baseline-report", copied, *FAST)[0] == 4


def test_an_old_report_beside_its_lock_is_known_by_that(run, out, made, tmp_path):
    other = another(tmp_path, made)
    edit(other / "report.json", lambda report: report.pop("digest"))
    assert run("check", out, "--baseline-report", other / "report.json", *FAST)[0] == 4


def test_an_old_report_alone_is_judged_with_a_note(run, out, tmp_path):
    copied = tmp_path / "elsewhere.json"
    shutil.copyfile(out / "report.json", copied)
    edit(copied, lambda report: report.pop("digest", None))
    code, said, _ = run("check", out, "--baseline-report", copied, *FAST, "--json")
    assert code == 0
    assert any("elsewhere.json does not say which model" in n for n in json.loads(said)["notes"])
    edit(copied, lambda report: report["model"].update(class_name="DiTTransformer2DModel"))
    code, _, err = run("check", out, "--baseline-report", copied, *FAST)
    assert code == 4 and "DiTTransformer2DModel" in err


def test_engines_without_a_model_beside_them_are_judged_with_a_note(run, tmp_path):
    one, two = make_engine(tmp_path / "a"), make_engine(tmp_path / "b")
    code, said, _ = run("check", one, "--baseline", two, *FAST, "--json")
    assert code == 0
    assert "is not known" in json.loads(said)["notes"][0]


# Built alike ------------------------------------------------------------------------------------


def rebuilt(out: Path, **changes):
    """The candidate's engine as if it had been built otherwise."""
    folder = out / "engines/fake/compressed"
    edit(folder / "engine.json", lambda content: content.update(**changes))


def served(*spans):
    """Profiles of the fake engine at these (least, most) batch sizes."""
    names = {"sample": (1, 8, 8), "timestep": ()}
    return [
        {name: {"min": (low, *rest), "opt": (low, *rest), "max": (high, *rest)}
         for name, rest in names.items()}
        for low, high in spans
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"threads": 1}, "the threads differ, and count in the figures: baseline every core, "
                      "candidate 1"),
     ({"profiles": served((1, 8))}, "the shapes that they serve differ"),
     ({"profiles": served((1, 1), (4, 4))}, "the shapes that they serve differ"),
     ({"precision_found": "tf32"}, "the precisions that they compute in differ"),
     ({"built_for": ["sm86"]}, "the GPUs that they were built for differ")],
)  # fmt: skip
def test_what_was_built_otherwise_is_noted(run, out, before, changes, words, monkeypatch):
    monkeypatch.setattr("diffc_runtime.machine.cpu.cores", lambda: 4)
    rebuilt(out, **changes)
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 0
    assert [note for note in json.loads(said)["notes"] if words in note]


def test_threads_of_the_request_are_both_sides(run, out, before):
    rebuilt(out, threads=1)
    said = run("check", out, "--baseline", before, "--threads", "1", *FAST, "--json")[1]
    assert not [note for note in json.loads(said)["notes"] if "threads" in note]


def test_stored_times_of_other_threads_are_noted(run, out, before):
    edit(before / "report.json", lambda r: r["targets"][0]["details"].update(threads=1000))
    said = run("check", out, "--baseline-report", before, *FAST, "--json")[1]
    assert [note for note in json.loads(said)["notes"] if "baseline 1000, candidate" in note]


def test_stored_times_of_other_shapes_are_refused_or_noted(run, out, before, measured):
    details = json.loads((before / "report.json").read_text())["targets"][0]["details"]

    def change(**values):
        edit(before / "report.json", lambda r: r["targets"][0]["details"].update(values))
        code, said, err = run("check", out, "--baseline-report", before, *FAST, "--json")
        return code, json.loads(said)["notes"] if said else [], err

    code, notes, _ = change(served=["batch 1 to 8"])
    assert code == 0 and any("the shapes that they serve differ" in note for note in notes)
    code, notes, _ = change(served=None, threads=None)
    assert code == 0 and any("of which threads and shapes the stored" in note for note in notes)
    measured.clear()
    code, _, err = change(interface={**details["interface"], "sample": "float32 [1, 24, 24]"})
    assert code == 4 and "sample: baseline float32 [1, 24, 24], candidate float32 [1, 8, 8]" in err
    assert not measured


def test_a_stored_baseline_keeps_what_its_times_are_of(run, out, tmp_path):
    folder = tmp_path / "bl" / "main"
    assert run("baseline", "save", out, "--to", folder, "--figures-only")[0] == 0
    said = run("check", out, "--baseline-report", folder, *FAST, "--json")[1]
    assert not [note for note in json.loads(said)["notes"] if "not known" in note]


def test_a_report_in_the_place_of_engines(run, out, before):
    code, _, err = run("check", out, "--baseline", before / "report.json", *FAST)
    assert code == 2 and "--baseline-report takes a report.json" in err


def test_engines_of_another_precision_are_no_pair(run, out, before, measured):
    rebuilt(out, precision_asked="int8", precision_found="int8")
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 4 and "has fake int8" in err and "has fake fp32" in err and not measured


def test_engines_of_other_inputs_are_refused(run, out, before, measured):
    def halve(content):
        content["inputs"][0]["dtype"] = "float16"

    edit(out / "engines/fake/compressed/engine.json", halve)
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 4 and "float16" in err and "float32" in err and not measured


def test_samples_of_other_steps_are_noted_beside_their_ssim(run, out, before):
    for folder, steps in ((out, 50), (before, 10)):
        edit(folder / "report.json", lambda r, n=steps: r["quality"]["ssim"].update(steps=n))
    said = run("check", out, "--baseline", before, *FAST, "--json")[1]
    assert rows(said)["SSIM"]["note"] == "not of the same samples: steps 10 before, 50 now"


# What the candidate lost --------------------------------------------------------------------------


def test_an_engine_that_the_candidate_lost_is_no_plain_pass(run, out, before):
    add_target(before, "ort-cpu")
    code, said, err = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 3 and rows(said)["latency p50"]["verdict"] == "pass"
    assert "ort-cpu fp32, engine: the baseline has it" in err
    assert run("check", out, "--baseline", before, "--target", "fake", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline", before, "--target", "ort-cpu", *FAST)
    assert code == 4 and "no engine is on both sides" in err
    both = ("--target", "fake", "--target", "ort-cpu")
    code, _, err = run("check", out, "--baseline", before, *both, *FAST)
    assert code == 4 and "ort-cpu is not on both sides" in err


def test_nor_is_one_that_a_report_has(run, out, before):
    add_target(before, "ort-cpu")
    assert run("check", out, "--baseline-report", before, *FAST)[0] == 3
    assert run("check", out, "--baseline-report", before, "--target", "fake", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline-report", before, "--target", "openvino", *FAST)
    assert code == 4 and "no engine is on both sides" in err


def test_a_batch_size_that_it_lost_is_no_plain_pass(run, out, before):
    rebuilt(before, profiles=served((1, 1), (4, 4)))
    rebuilt(out, profiles=served((1, 1)))
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 3 and rows(said)["engine"]["batch"] == 4
    assert run("check", out, "--baseline", before, "--batch", "1", *FAST)[0] == 0
    code, _, err = run("check", out, "--baseline", before, "--batch", "4", *FAST)
    assert code == 2 and "--batch 4: no engine on both sides serves it" in err


def test_an_engine_that_only_the_candidate_has_is_a_note(run, out, before):
    add_target(out, "ort-cpu")
    code, said, _ = run("check", out, "--baseline", before, *FAST, "--json")
    assert code == 0
    assert "ort-cpu fp32 is not in the baseline: not judged" in json.loads(said)["notes"]


# What cannot be measured here ---------------------------------------------------------------------


def test_a_target_that_cannot_run_here_is_absent_and_the_rest_judged(
    run, out, before, monkeypatch, measured
):
    for folder in (out, before):
        add_target(folder, "ort-cpu")
    cannot_run(monkeypatch, "ort-cpu")
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
    cannot_run(monkeypatch, "fake")
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
        assert rows(said)["peak memory"]["verdict"] == "absent"
        assert "not built" in rows(said)["peak memory"]["note"]


def test_a_baseline_of_zero_is_no_share(run, out, before):
    edit(before / "engines/fake/compressed/engine.json", lambda c: c.update(engine_bytes=0))
    said = run("check", out, "--baseline", before, *FAST, "--json")[1]
    size = rows(said)["engine size"]
    assert size["verdict"] == "absent" and "no engine size to take 5% of" in size["note"]


@pytest.mark.parametrize("times", [[], [0.0, 0.0], [1.0, 0.0]])
def test_stored_times_that_are_none_are_not_judged(run, out, before, times):
    def change(report):
        report["targets"][0]["compressed"]["samples_ms"] = times

    edit(before / "report.json", change)
    code, said, _ = run("check", out, "--baseline-report", before, *FAST, "--json")
    assert code == 3 and "no times of it" in rows(said)["latency p50"]["note"]


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

    rebuilt(out, details={"out": 1})
    monkeypatch.setattr(figures, "loop_call", call_of)
    code, _, err = run("check", out, "--baseline", before, "--loop-steps", "2",
                       "--most-seconds", "1")  # fmt: skip
    assert code == 1 and "loop p50, 2 steps" in err and "not numbers" in err
    code, said, _ = run("check", before, "--baseline", out, "--loop-steps", "2",
                        "--most-seconds", "1", "--json")  # fmt: skip
    assert code == 0 and rows(said)["loop p50, 2 steps"]["verdict"] == "absent"


def test_an_engine_that_names_no_scheduler_has_no_loop(run, out, before):
    for folder in (out, before):
        edit(folder / "engines/fake/compressed/engine.json", lambda c: c["source"].pop("scheduler"))
    code, said, _ = run("check", out, "--baseline", before, "--most-seconds", "1", "--json")
    assert code == 0 and "names no scheduler" in rows(said)["loop p50, 10 steps"]["note"]


# A noisy machine ----------------------------------------------------------------------------------


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


def test_stored_times_give_no_verdict_on_a_noisy_machine(run, out, before, monkeypatch):
    """The machine was quiet when they were taken: a busy one now makes everything slower."""
    wild = random.Random(0)
    monkeypatch.setattr(
        fake.FakeCall, "run", lambda self: 9 * self._seconds * wild.lognormvariate(0, 1.5)
    )
    code, said, _ = run("check", out, "--baseline-report", before, *FAST, "--json")
    assert code == 4 and rows(said)["latency p50"]["verdict"] == "unfit"
    code, _, err = run("check", out, "--baseline-report", before, *FAST)
    assert code == 4 and "the candidate against itself differs by" in err


def test_far_slower_is_a_regression_on_a_noisy_machine_too(run, out, tmp_path, monkeypatch):
    slow = make_output(tmp_path / "slow", macs=40_000_000_000)
    wild = random.Random(0)
    monkeypatch.setattr(
        fake.FakeCall, "run", lambda self: self._seconds * wild.lognormvariate(0, 1.5)
    )
    code, said, err = run("check", slow, "--baseline", out, "--loop-steps", "0", "--json")
    assert json.loads(said)["noise"][0]["verdict"] == "unfit"
    assert code == 1 and "REGRESSED" in err


# Wrong requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--seed", "-1"), "seed"),
     (("--target", "ort_cpu"), "unknown target 'ort_cpu'"),
     (("--target", ""), "unknown target"),
     (("--loop-steps", "5000"), "--loop-steps 5000 is more than the model's 1000 timesteps"),
     (("--loop-steps", "-1"), "loop_steps"),
     (("--batch", "0"), "--batch 0"),
     (("--batch", "7"), "--batch 7: no engine on both sides serves it"),
     (("--threads", "0"), "threads"),
     (("--threads", "100000"), "threads"),
     (("--most-seconds", "nan"), "seconds")],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--baseline", "--baseline-report"])
def test_a_wrong_request_ends_before_anything_is_measured(
    run, out, before, flags, words, flag, measured
):
    code, _, err = run("check", out, flag, before, *flags)
    assert code == 2 and words in err and not measured
    assert len(err.splitlines()[0]) < 200


def test_the_default_of_loop_steps_is_no_request(run, out, before):
    for folder in (out, before):
        edit(
            folder / "engines/fake/compressed/engine.json",
            lambda c: c["source"]["scheduler"].update(num_train_timesteps=4),
        )
    code, said, _ = run("check", out, "--baseline", before, "--most-seconds", "1", "--json")
    timed = rows(said)["loop p50, 4 steps"]  # as many as the model has
    assert code != 2 and timed["baseline"] > 0 and timed["verdict"] != "absent"


@pytest.mark.parametrize("lock", ["format: 1\n", "format: 1\nmodel: 3\n", "[]\n", "format: [\n"])
@pytest.mark.parametrize("verb", ["check", "baseline"])
def test_a_lock_that_lacks_what_it_must_have(run, out, before, lock, verb, measured):
    (out / "recipe.lock.yaml").write_text(lock)
    args = {"check": ("check", out, "--baseline", before, *FAST), "baseline": (
        "baseline", "save", out, "--to", out.parent / "bl" / "x")}[verb]  # fmt: skip
    code, _, err = run(*args)
    assert code == 2 and "recipe.lock.yaml" in err and not measured


def test_a_damaged_reference_is_said_at_once(run, out, before, measured):
    (out / "onnx/compressed/reference.safetensors").write_bytes(b"cut")
    code, _, err = run("check", out, "--baseline", before, *FAST)
    assert code == 2 and "reference.safetensors is damaged" in err and not measured


# Where the result goes ----------------------------------------------------------------------------


def test_folders_are_made_for_every_output(run, out, before, tmp_path):
    flags = []
    for name in ("markdown", "junit", "badge", "history"):
        flags += [f"--{name}", tmp_path / "new ä" / name / "x"]
    code, _, _ = run("check", out, "--baseline", before, *FAST, *flags)
    assert code == 0
    assert all((tmp_path / "new ä" / name / "x").stat().st_size for name in
               ("markdown", "junit", "badge", "history"))  # fmt: skip


@pytest.mark.parametrize("flag", ["--markdown", "--junit", "--badge", "--history"])
@pytest.mark.parametrize("place", ["below a file", "folder", "read-only"])
def test_an_output_that_cannot_be_written_is_said_at_once(
    run, out, before, tmp_path, flag, place, measured
):
    (tmp_path / "file").write_text("x")
    path = {"below a file": tmp_path / "file" / "x", "folder": tmp_path,
            "read-only": Path("/proc/x")}[place]  # fmt: skip
    code, _, err = run("check", out, "--baseline", before, *FAST, flag, path)
    reasons = {"below a file": f"'{tmp_path / 'file'}' is not a folder", "folder": "it is a folder"}
    assert code == 2 and not measured
    assert f"cannot write {flag} {path}: {reasons.get(place, '')}" in err
    assert not err.splitlines()[0].endswith(":")


def test_one_file_for_two_outputs_is_refused(run, out, before, tmp_path, measured):
    path = tmp_path / "x"
    code, _, err = run(
        "check", out, "--baseline", before, "--junit", path, "--markdown", path, *FAST
    )
    assert code == 2 and "are the same file" in err and not measured and not path.exists()


def test_a_home_folder_is_written_with_a_tilde(run, out, before, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ("--junit=~/new/j.xml", "--history=~/new/h.jsonl")
    assert run("check", "~/out", "--baseline=~/before", *flags, *FAST)[0] == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"j.xml", "h.jsonl"}


def test_nothing_is_left_where_a_check_ends_early(run, out, before, tmp_path):
    path = tmp_path / "made" / "j.xml"
    assert run("check", out, "--baseline", before, "--junit", path, "--batch", "7", *FAST)[0] == 2
    assert not path.exists()


def test_a_disk_that_fills_up_meanwhile_loses_one_file_alone(
    run, out, before, tmp_path, monkeypatch
):
    import errno

    from diffc import result_files

    whole = result_files.write_whole

    def full(path, text):
        if path.suffix == ".xml":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, text)

    monkeypatch.setattr(result_files, "write_whole", full)
    flags = ("--junit", tmp_path / "j.xml", "--badge", tmp_path / "b.svg", "--json")
    code, said, err = run("check", out, "--baseline", before, *FAST, *flags)
    assert code == 2 and f"cannot write --junit {tmp_path / 'j.xml'}: No space left" in err
    assert json.loads(said)["verdict"] == "pass"
    ET.parse(tmp_path / "b.svg")
    code, _, err = run("check", out, "--baseline", before, "--min-ssim", "0.99", *FAST, *flags)
    assert code == 1 and "cannot write --junit" in err and "REGRESSED" in err


def test_a_device_is_written_to_and_stays_one(run, out, before):
    flags = ("--junit", "/dev/null", "--badge", "/dev/null", "--markdown", "/dev/null")
    assert run("check", out, "--baseline", before, *FAST, *flags)[0] == 0
    assert Path("/dev/null").is_char_device()


def test_names_that_are_no_text(run, out, before, tmp_path):
    strange = tmp_path / "o\udcff"
    shutil.copytree(out, strange)
    code, said, _ = run(
        "check", strange, "--baseline", before, *FAST, "--json", "--junit", tmp_path / "j.xml",
        "--markdown", tmp_path / "m.md", "--history", tmp_path / "h.jsonl",
    )  # fmt: skip
    assert code == 0 and json.loads(said)["candidate"]["path"].endswith("o\ufffd")
    assert said.isascii()
    ET.parse(tmp_path / "j.xml")


# Baselines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/x", "/proc/x/main"])
def test_a_baseline_that_cannot_be_written(run, out, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    code, _, err = run("baseline", "save", out, "--to", tmp_path / place)
    assert code == 2 and "--to" in err and (tmp_path / "file").read_text() == "mine"


def test_a_baseline_whose_history_is_a_folder(run, out, tmp_path):
    (tmp_path / "bl" / "history.jsonl").mkdir(parents=True)
    code, _, err = run("baseline", "save", out, "--to", tmp_path / "bl" / "main")
    assert code == 2 and "the history" in err and not (tmp_path / "bl" / "main").exists()


def test_a_disk_that_fills_up_leaves_the_baseline_of_before(run, out, tmp_path, monkeypatch):
    folder = tmp_path / "bl" / "main"
    assert run("baseline", "save", out, "--to", folder)[0] == 0
    held = (folder / "baseline.json").read_bytes()

    def full(source, to, *_, **__):
        raise shutil.Error([(source, to, "[Errno 28] No space left on device: 'x'")])

    monkeypatch.setattr("diffc.gate.baseline.shutil.copytree", full)
    code, _, err = run("baseline", "save", out, "--to", folder)
    assert code == 2 and f"cannot write --to {folder}: No space left on device\n" in err
    assert (folder / "baseline.json").read_bytes() == held
    assert sorted(p.name for p in folder.parent.iterdir()) == ["history.jsonl", "main"]


def test_a_cut_engine_is_not_saved(run, out, tmp_path):
    (out / "engines/fake/compressed" / fake.FILE).write_text("")
    code, _, err = run("baseline", "save", out, "--to", tmp_path / "bl" / "main")
    assert code == 2 and "cut or altered" in err and not (tmp_path / "bl" / "main").exists()


def test_every_row_of_a_damaged_history_but_the_bad_one_is_shown(run, out, tmp_path):
    folder = tmp_path / "bl" / "main"
    for _ in range(2):
        assert run("baseline", "save", out, "--to", folder)[0] == 0
    history = folder.parent / "history.jsonl"
    history.write_text("{\n" + history.read_text())
    code, said, err = run("baseline", "list", folder.parent, "--csv")
    assert code == 0 and len(said.splitlines()) == 3 and "line 1 is damaged" in err
    page = tmp_path / "page.html"
    code, _, err = run("report", out, "--history", history, "--html", page, "--quiet")
    assert code == 0 and "line 1 is damaged" in err and page.stat().st_size


def test_a_report_page_that_is_a_folder(run, out, tmp_path):
    code, _, err = run("report", out, "--html", tmp_path)
    assert code == 2 and f"cannot write --html {tmp_path}: it is a folder" in err
