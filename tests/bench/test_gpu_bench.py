"""bench/gpu: its jobs are done once, resumable and told apart; the whole is rehearsed on a CPU."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.gpu_bench import GPU, answering, wanted

from bench.gpu import __main__ as gpu
from bench.gpu import engines, jobs, pictures, rehearsal, work
from bench.gpu.networks import NETWORKS, network_folder
from bench.gpu.variants import ALLOCATIONS, prepare
from diffc.models.source import find_source
from diffc.prune.planning import cost_of
from diffc_export.targets import target

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "sdxl" else ()) for name in NETWORKS],
)
def test_networks_have_their_published_sizes(name, tmp_path):
    network = NETWORKS[name]
    content = {"_class_name": network.class_name, **network.config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    costs = cost_of(find_source(tmp_path, need_weights=False))
    assert costs.cost(costs.dense).params / 1e6 == pytest.approx(network.parameters, rel=2e-3)


def test_a_job_is_done_once(tmp_path, monkeypatch):
    script = "import sys; open(sys.argv[-1], 'w').write('{\"found\": 1}')"
    job = answering(tmp_path, monkeypatch, script)
    assert not jobs.is_done(tmp_path, job)
    assert jobs.run(job, tmp_path, 60) == "done"
    assert jobs.is_done(tmp_path, job)
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["found"] == 1 and held["environment"]["cpu"]


def test_a_job_that_dies_leaves_its_last_lines(tmp_path, monkeypatch):
    job = answering(
        tmp_path, monkeypatch, "import os; print('on the edge', flush=True); os.abort()"
    )
    assert jobs.run(job, tmp_path, 60) == "failed"
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["failed"] == "exit status -6" and "on the edge" in held["last_lines"]
    assert jobs.is_done(tmp_path, job) and not jobs.is_done(tmp_path, job, retry=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_job_out_of_time_is_tried_again_and_leaves_no_process(tmp_path, monkeypatch):
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', SLEEP])".replace(
        "SLEEP", repr(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
                      "; __import__('time').sleep(600)")
    )  # fmt: skip
    job = answering(tmp_path, monkeypatch, script)
    assert jobs.run(job, tmp_path, 5) == "out of time"
    assert not jobs.is_done(tmp_path, job)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pid)


def test_what_cannot_be_done_is_recorded(tmp_path):
    job = jobs.Job("latency", "net-trt", ())
    jobs.skip(job, tmp_path, "no NVIDIA GPU here")
    pictures.draw(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index == {"latency/net-trt": "skipped: no NVIDIA GPU here"}


def test_a_skip_counts_as_long_as_there_is_a_reason(tmp_path, monkeypatch):
    job = answering(
        tmp_path, monkeypatch, "import sys; open(sys.argv[-1], 'w').write('{\"found\": 1}')"
    )
    jobs.skip(job, tmp_path, "no --data")
    assert jobs.is_done(tmp_path, job, reason="no --data")
    assert not jobs.is_done(tmp_path, job), "the data is here now"
    assert jobs.run(job, tmp_path, 60) == "done"
    assert jobs.is_done(tmp_path, job) and jobs.is_done(tmp_path, job, reason="no --data")


UNFINISHED = """
import json, sys
json.dump({"study": {"rows": 3}, "unfinished": "rows are missing"}, open(sys.argv[-1], "w"))
"""


def test_a_partial_result_is_kept_and_not_done(tmp_path, monkeypatch):
    job = answering(tmp_path, monkeypatch, UNFINISHED)
    assert jobs.run(job, tmp_path, 60) == "out of time"
    assert not jobs.is_done(tmp_path, job)
    (tmp_path / "path" / "bench" / "gpu" / "work.py").write_text("import time; time.sleep(60)")
    assert jobs.run(job, tmp_path, 1) == "out of time"
    held = json.loads(jobs.result_file(tmp_path, job).read_text())
    assert held["study"] == {"rows": 3}, "what the call before found is still there"
    assert held["tries"] == 2 and held["seconds_given"] == 60 and held["seconds"] < 30
    pictures.draw(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index == {"piece/name": "unfinished: out of time (2 tries)"}


def test_a_job_that_never_fits_blocks_no_other(tmp_path, monkeypatch, capsys):
    """Two calls are its own; then the others come first."""
    big, small = (jobs.Job("latency", name, ()) for name in ("big", "small"))
    args = ["gpu", "--out", str(tmp_path), "--only", "latency"]
    monkeypatch.setattr(sys, "argv", args)
    monkeypatch.setattr(gpu, "jobs", lambda _: iter([(big, ""), (small, "")]))
    order = []

    def run(job, out, seconds):
        order.append(job.name)
        found = {"found": 1} if job is small else {"unfinished": "x", "tries": len(order)}
        jobs._write(job, out, found, 1.0)
        if job is big:
            monkeypatch.setattr(gpu.time, "monotonic", lambda: float("inf"))
        return "done"

    monkeypatch.setattr(gpu, "run", run)
    for _ in range(3):
        monkeypatch.setattr(gpu.time, "monotonic", lambda: 0.0)
        gpu.main()
    assert order == ["big", "big", "small", "big"]
    assert capsys.readouterr().out.splitlines()[-1] == "1 jobs are left: run the command again"


def test_what_lacked_a_network_is_done_again_when_it_is_there(tmp_path):
    engine = jobs.Job("latency", "net-trt", ())
    network = jobs.Job("latency", "net-fp16-latency", ())
    jobs._write(engine, tmp_path, {"lacking": ["latency/net-fp16-latency"]}, 1.0)
    assert jobs.is_done(tmp_path, engine), "the network was not made yet either"
    jobs._write(network, tmp_path, {"unfinished": "out of time", "tries": 1}, 1.0)
    assert jobs.is_done(tmp_path, engine)
    jobs._write(network, tmp_path, {"macs_left": 0.5}, 1.0)
    assert not jobs.is_done(tmp_path, engine)


def test_engines_and_memory_say_which_networks_they_lacked(tmp_path):
    found = engines.measure(tmp_path / "net", "ort-cpu", 1, "fp16", 0.1)
    assert found["rows"] == {}
    assert found["lacking"] == [f"latency/net-fp16-{a}" for a in sorted(ALLOCATIONS)]
    found = engines.memory(tmp_path / "net", "ort-cpu", 1, "fp16")
    assert found["lacking"] == ["latency/net-fp16-dense", "latency/net-fp16-latency"]


@pytest.mark.slow
def test_a_second_precision_takes_the_first_ones_network(tmp_path):
    """Not planned again, so that both are compared at the same widths."""
    folder = network_folder("dit-xl-2", tmp_path, small=True)
    first = prepare(folder, "global", tmp_path, "fp16", 1)
    model = folder.parent / "global" / "onnx" / "model.onnx"
    written = model.stat().st_mtime_ns
    second = prepare(folder, "global", tmp_path, "bf16", 1)
    assert second["widths"] == first["widths"] and second["planned_for"] == "fp16"
    assert second["macs_left"] == first["macs_left"] and model.stat().st_mtime_ns == written
    for precision in ("fp16", "bf16"):
        content = json.loads((folder.parent / "global" / precision / "model.json").read_text())
        assert content["precision"] == precision


def test_bf16_comes_after_fp16_and_the_study_last(tmp_path, monkeypatch):
    names = list(wanted(tmp_path, monkeypatch, "--networks", "cifar"))
    assert names[-1] == "study/cifar-10"
    bf16 = [i for i, name in enumerate(names) if "bf16" in name]
    assert bf16 and min(bf16) > names.index("memory/cifar-fp16-trt-batch1")
    assert min(bf16) > names.index("speed/cifar")


def test_rtx_anyway_is_skipped_on_a_gpu_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.machine.gpu, "gpus", lambda: (GPU,))
    monkeypatch.setattr(gpu, "_cannot_build", lambda name: f"{name} is not installed")
    found = wanted(tmp_path, monkeypatch, "--only", "latency", "--networks", "cifar")
    assert found["latency/trt-rtx-anyway"] == "trt-rtx is not installed"


def test_a_killed_save_leaves_no_network(tmp_path, monkeypatch):
    """Half a file, of an older version or a kill, is made anew; the folder appears whole."""
    import diffusers

    save = diffusers.ModelMixin.save_pretrained

    def killed(model, folder, **_):
        (Path(folder) / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusers.ModelMixin, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        network_folder("dit-xl-2", tmp_path, small=True)
    monkeypatch.setattr(diffusers.ModelMixin, "save_pretrained", save)
    folder = network_folder("dit-xl-2", tmp_path, small=True)
    assert find_source(folder).class_name == "DiTTransformer2DModel"
    assert (folder / "diffusion_pytorch_model.safetensors").stat().st_size > 100
    assert not folder.with_name("dense.part").exists()


REPORT = """<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">
<testcase name="a"/><testcase name="b"><failure message="wrong"/></testcase>
<testcase name="c"><error message="broken"/></testcase>
<testcase name="d"><skipped message="no GPU"/></testcase></testsuite></testsuites>"""


def test_the_tests_counts_are_no_state(tmp_path):
    """A count named ``skipped`` once made a piece with failures a skipped one."""
    (tmp_path / "report.xml").write_text(REPORT)
    found = work.read_report(tmp_path / "report.xml")
    assert found["counts"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert found["reasons"]["b"] == "failure: wrong"
    assert pictures.state(found) == "done: 1 passed, 2 failed, 1 skipped"


@pytest.mark.parametrize("complete", [None, False, True])
def test_a_study_is_done_when_it_is_complete(tmp_path, monkeypatch, complete):
    """Its minutes are those that are left; before its first row it leaves nothing."""
    given = {}

    def bench(_, *arguments):
        said = dict(zip(arguments[::2], arguments[1::2], strict=True))
        given.update(said)
        if complete is not None:
            for suffix, text in ((".json", json.dumps({"complete": complete})), (".md", "| |")):
                said["--out"].with_suffix(suffix).write_text(text)
            said["--out"].with_suffix(".png").write_bytes(b"x")

    monkeypatch.setattr(work, "_bench", bench)
    folder = tmp_path / "work"
    folder.mkdir()
    args = argparse.Namespace(work=folder, small=False, seconds=345.0, data=tmp_path)
    found = work.study(args)
    assert given["--minutes"] == pytest.approx(5.0)
    assert ("unfinished" in found) == (not complete)
    assert (tmp_path / "study" / "cifar-10.png").exists() == (complete is not None)


def test_a_rehearsal_holds_states_and_no_figures():
    environment = {"gpus": [], "cpu": "x", "cores": 2}
    about = {"date": "2026-11-24T00:00:00", "environment": environment, "seconds": 2.0}
    rows = [
        {**about, "piece": "latency", "name": "a", "rows": {"torch": {"p50": 1}}, "absent": {}},
        {**about, "piece": "latency", "name": "b", "skipped": "no NVIDIA GPU here"},
        {**about, "piece": "tests", "name": "gpu", "counts": {"passed": 0, "skipped": 3}},
    ]
    found = rehearsal.summary(rows)
    assert found["counts"] == {"done": 2, "skipped": 1}
    assert found["jobs"]["latency/a"] == {"state": "done", "seconds": 2.0}
    assert found["jobs"]["latency/b"]["reason"] == "no NVIDIA GPU here"
    assert found["jobs"]["tests/gpu"]["reason"] == "0 passed, 3 skipped"
    with pytest.raises(SystemExit, match="not a rehearsal"):
        rehearsal.summary([{**rows[0], "environment": {"gpus": [{"name": "x"}]}}])


def images(path: Path) -> Path:
    """What the study takes for CIFAR-10."""
    random, sets = np.random.default_rng(0), {}
    for split in ("train", "test"):
        sets[split] = random.integers(0, 256, (64, 32, 32, 3), np.uint8)
        sets[f"{split}_labels"] = np.arange(64) % 10
    np.savez(path, **sets)
    return path


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_whole_runs_small_on_a_cpu(tmp_path):
    """Every piece; without a compiler, for torch.compile takes minutes of C++ for each network."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), "--small",
               "--seconds", "1900", "--networks", "cifar", "--targets", "torch", "ort-cpu",
               "trt-rtx", "--data", str(images(tmp_path / "images.npz"))]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CXX": str(tmp_path / "none"),
           "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    index = json.loads((out / "index.json").read_text())
    left = {name: state for name, state in index.items() if not state.startswith("done")}
    assert left == {
        "latency/trt-rtx-anyway": "skipped: no NVIDIA GPU here",
        **{
            f"{piece}/cifar-fp32-trt-rtx-batch2": f"skipped: {target('trt-rtx').status().reason}"
            for piece in ("latency", "memory")
        },
    }
    held = json.loads((out / "latency/cifar-fp32-ort-cpu-batch2.json").read_text())
    allocations = ("dense", "latency", "global", "uniform")
    assert set(held["rows"]) == {"torch eager, dense", *(f"ort-cpu, {a}" for a in allocations)}
    assert held["rows"]["torch eager, dense"]["over_torch_eager"]["median"] == 1.0
    torch = json.loads((out / "latency/cifar-fp32-torch-batch2.json").read_text())
    assert set(torch["rows"]) == {"torch eager, dense", "torch eager, latency"}
    assert "compiler" in torch["absent"]["torch compiled, dense"]
    plan = json.loads((out / "latency/cifar-fp32-latency.json").read_text())
    assert plan["cost_tables"]["target"] == "ort-cpu" and plan["cost_tables"]["kinds"]["conv"]
    study = json.loads((out / "study/cifar-10.json").read_text())
    assert study["study"]["complete"] and "| ours |" in study["table"]
    for picture in ("latency/cifar-fp32-batch2", "memory/memory", "speed/cifar", "study/cifar-10"):
        assert (out / f"{picture}.png").exists(), picture
    again = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert again.stdout == "nothing is left\n", "nothing is done twice"
