"""bench/gpu on a lent machine: nothing is done twice, nothing that was measured is lost."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.gpu_bench import GPU, answering, wanted

from bench.gpu import __main__ as gpu
from bench.gpu import engines, jobs, variants
from bench.gpu.networks import network_folder
from bench.gpu.variants import ALLOCATIONS, prepare
from diffc_export.targets.base import Status
from diffc_export.targets.engine import EngineInfo

ROOT = Path(__file__).parents[2]


def test_planning_holds_up_no_network(tmp_path, monkeypatch):
    """What is quick to make is measured first, of every network, and again after each plan."""
    monkeypatch.setattr(gpu, "_cannot_run", lambda name: "")
    said = "--only latency --networks cifar sd15 --batch 8 --precision fp16"
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), *said.split()])
    names = [job.name for job, _ in gpu.jobs(gpu.arguments())]
    plan = names.index("cifar-fp16-latency")
    for network in ("cifar", "sd15"):
        first = names.index(f"{network}-fp16-ort-cuda-batch8")
        assert names.index(f"{network}-fp16-uniform") < first < plan
        assert f"{network}-fp16-ort-cuda-batch8" in names[plan:]
        assert names.index(f"{network}-fp16-torch-batch8") > plan, "it compiles for minutes"
    assert gpu.TARGETS[-1] == "torch"


def test_only_the_allocations_that_are_named_are_made(tmp_path, monkeypatch):
    names = wanted(tmp_path, monkeypatch, "--only", "latency", "--networks", "sd15",
                   "--allocations", "dense", "uniform")  # fmt: skip
    made = [name for name in names if name.split("-")[-1] in ALLOCATIONS]
    assert made == [f"latency/sd15-{p}-{a}" for p in ("fp16", "bf16") for a in ("dense", "uniform")]


def test_a_target_that_builds_and_does_not_run_is_skipped(tmp_path, monkeypatch):
    status = Status(True, True, False, "not on sm90", {}, "a GPU")
    monkeypatch.setattr(gpu, "target", lambda name: argparse.Namespace(status=lambda: status))
    found = wanted(tmp_path, monkeypatch, "--only", "latency", "--networks", "cifar")
    assert found["latency/cifar-fp16-trt-rtx-batch8"] == "not on sm90"


def test_a_gpus_plan_is_never_made_on_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(variants.machine.gpu, "gpus", lambda: (GPU,))
    runs = {"ort-cpu": True}

    def status(name):
        found = runs.get(name, False)
        return Status(found, found, found, "" if found else "not installed", {}, "x")

    monkeypatch.setattr(
        variants, "target", lambda name: argparse.Namespace(status=lambda: status(name))
    )
    name, reason = variants.planning_target()
    assert name is None and "ort-cuda: not installed" in reason and "ort-cpu" not in reason
    with pytest.raises(SystemExit, match="cannot be planned by latency here"):
        variants.latency_bench(tmp_path, "fp16", 8)
    found = wanted(tmp_path, monkeypatch, "--only", "latency", "--networks", "cifar")
    assert "cannot be planned" in found["latency/cifar-fp16-latency"]
    runs["ort-cuda"] = True
    assert variants.planning_target() == ("ort-cuda", "")
    monkeypatch.setattr(variants.machine.gpu, "gpus", lambda: ())
    runs["ort-cuda"] = False
    assert variants.planning_target() == ("ort-cpu", ""), "a rehearsal"


PARTIAL = """
import json, sys, time
json.dump({"rows": {"torch eager": 1}, "unfinished": "still"}, open(sys.argv[-1], "w"))
END
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "said"),
    [("time.sleep(60)", "out of time"), ("raise ValueError('on the edge')", "failed")],
)
def test_what_a_job_wrote_as_it_went_is_kept(tmp_path, monkeypatch, end, said):
    job = answering(tmp_path, monkeypatch, PARTIAL.replace("END", end))
    assert jobs.run(job, tmp_path, 5) == said
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["rows"] == {"torch eager": 1}
    assert ("unfinished" in held) == (said == "out of time")


@pytest.mark.parametrize(("piece", "again"), [("tests", True), ("environment", True),
                                              ("latency", False)])  # fmt: skip
def test_what_packages_decide_is_done_again_when_they_change(tmp_path, monkeypatch, piece, again):
    job = jobs.Job(piece, "gpu", ())
    jobs._write(job, tmp_path, {"counts": {"passed": 0, "skipped": 60}}, 1.0)
    assert jobs.is_done(tmp_path, job)
    more = jobs.read_environment()
    more = more.model_copy(update={"packages": {**more.packages, "onnxruntime-gpu": "1.31.1"}})
    monkeypatch.setattr(jobs, "read_environment", lambda: more)
    assert jobs.is_done(tmp_path, job) != again


def test_memory_waits_for_the_engines(tmp_path):
    """Without one it is not done; once their job has ended, what is absent is."""
    place = tmp_path / "work" / "net"
    for allocation in ("dense", "latency"):
        (place / allocation).mkdir(parents=True)
        (place / allocation / "plan.json").write_text("{}")
    found = engines.memory(place, "ort-cpu", 1, "fp16")
    made_by = "latency/net-fp16-ort-cpu-batch1"
    assert found["skipped"] == f"no engine was built yet: {made_by} builds them"
    assert found["lacking"] == [made_by, made_by]
    memory = jobs.Job("memory", "net-fp16-ort-cpu-batch1", ())
    jobs._write(memory, tmp_path, found, 1.0)
    assert not jobs.is_done(tmp_path, memory)
    jobs._write(jobs.Job("latency", "net-fp16-ort-cpu-batch1", ()), tmp_path, {"rows": {}}, 1.0)
    found = engines.memory(place, "ort-cpu", 1, "fp16")
    assert "skipped" not in found and found["lacking"] == []
    jobs._write(memory, tmp_path, found, 1.0)
    assert jobs.is_done(tmp_path, memory)


def test_one_engine_that_fails_at_its_first_call_loses_no_other():
    class Foreign(Exception):
        """As ONNX Runtime's: of no class that is known."""

    class Runner:
        def __init__(self, error):
            self.info, self.error = EngineInfo("fake", {}, {}, (), (), "fp32", "fp32", {}), error

        def bind(self, inputs):
            if self.error:
                raise self.error
            return argparse.Namespace(run=lambda: 0.1)

    runners = {"good": Runner(None), "bad": Runner(Foreign("no kernel"))}
    seconds, reasons = engines._first_calls(runners, 1)
    assert list(seconds) == ["good"] and reasons == {"bad": "Foreign: no kernel"}


def test_the_index_is_there_when_a_call_is_ended(tmp_path, monkeypatch):
    job = jobs.Job("latency", "net", ())
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--only", "latency"])
    monkeypatch.setattr(gpu, "jobs", lambda _: iter([(job, "")]))

    def ended(job, out, seconds):
        jobs._write(job, out, {"found": 1}, 1.0)
        raise SystemExit(143)

    monkeypatch.setattr(gpu, "run", ended)
    with pytest.raises(SystemExit):
        gpu.main()
    assert json.loads((tmp_path / "index.json").read_text()) == {"latency/net": "done"}


def test_pictures_are_made_before_the_time_is_out(tmp_path, monkeypatch):
    given = []
    job = jobs.Job("latency", "net", ())
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--out", str(tmp_path), "--seconds", "600", "--only", "latency"]
    )
    monkeypatch.setattr(gpu, "jobs", lambda _: iter([(job, "")]))
    monkeypatch.setattr(gpu, "run", lambda job, out, seconds: given.append(seconds) or "done")
    gpu.main()
    assert 560 < given[0] < 580


def test_results_lie_where_git_does_not_look(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    folder = gpu.arguments().out
    ignored = subprocess.run(["git", "check-ignore", "-q", folder], cwd=ROOT, check=False)
    assert ignored.returncode == 0


@pytest.mark.slow
def test_a_network_that_is_there_is_not_converted_again(tmp_path, monkeypatch):
    folder = network_folder("dit-xl-2", tmp_path, small=True)
    prepare(folder, "uniform", tmp_path, "fp16", 1)
    monkeypatch.setattr(variants, "lowered", lambda *_: pytest.fail("converted again"))
    prepare(folder, "uniform", tmp_path, "fp16", 1)
    (folder.parent / "uniform" / "fp16" / variants.CONVERTED).unlink()  # a call that was killed
    with pytest.raises(pytest.fail.Exception):
        prepare(folder, "uniform", tmp_path, "fp16", 1)
