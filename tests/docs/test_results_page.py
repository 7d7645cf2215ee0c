"""docs/results.md says what bench/results hold, and nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")  # as when it is run
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts/results_page.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_is_what_the_results_give(script):
    assert script.PAGE.read_text() == script.page(), "run scripts/results_page.py"


def test_every_picture_of_the_page_is_there(script):
    for line in script.PAGE.read_text().splitlines():
        if line.startswith("!["):
            assert (script.PAGE.parent / line.split("(")[1].rstrip(")")).is_file(), line


def test_no_result_is_a_section_that_says_so(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    text = script.page()
    for file, title, _ in script.SECTIONS:
        assert f"## {title}\n\nNot measured yet: there is no `bench/results/{file}`." in text
    assert "Nothing was measured on a GPU yet" in text


ABOUT = {
    "date": "2026-11-23T00:00:00",
    "environment": {
        "gpus": [{"name": "Some GPU", "driver": "580.1", "cuda": "13.0"}],
        "cpu": "x", "cores": 2, "packages": {"torch": "2.9"},
    },
}  # fmt: skip


def speedup(median: float) -> dict:
    return {"median": median, "ci95": [median - 0.1, median + 0.1]}


def timed(over_eager: float, over_dense: float | None = None, ms: float = 1.5) -> dict:
    return {
        "latency_ms": {"p50": ms},
        "over_torch_eager": speedup(over_eager),
        "over_dense": over_dense and speedup(over_dense),
    }


@pytest.fixture
def on_gpu(script, tmp_path, monkeypatch):
    """Writes a device's results, a piece at a time; gives the page."""
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "PICTURES", tmp_path / "pictures")
    folder = tmp_path / "gpu" / "some-gpu"

    def write(piece: str, **named: dict) -> str:
        (folder / piece).mkdir(parents=True, exist_ok=True)
        (folder / "index.json").write_text("{}")
        for name, content in named.items():
            path = folder / piece / f"{name.replace('_', '-')}.json"
            row = {**ABOUT, "piece": piece, "name": path.stem, "seconds": 1.0, **content}
            path.write_text(json.dumps(row))
        return script.page(copy=True)

    write.folder = folder
    return write


ENGINES = {
    "net_fp16_latency": {"macs_left": 0.45},
    "net_fp16_uniform": {"macs_left": 0.5},
    "net_fp16_trt_batch8": {
        "target": "trt", "batch": 8, "absent": {"torch": "no compiler"},
        "rows": {
            "torch eager, dense": timed(1.0),
            "trt, dense": timed(2.0, 1.0), "trt, uniform": timed(2.5, 1.2),
            "trt, latency": timed(4.0, 2.0),
        },
    },
    "net_fp16_torch_batch8": {
        "target": "torch", "batch": 8, "absent": {},
        "rows": {
            "torch eager, dense": timed(1.0, 1.0), "torch graphs, dense": timed(1.25, 1.0),
            "torch compiled, dense": timed(1.6, 1.0),
        },
    },
}  # fmt: skip


def test_a_gpus_results_become_tables(on_gpu):
    """Efficiency is the speed-up over dense times the MACs left; failures are told."""
    text = on_gpu("latency", **ENGINES, net_fp16_ort_cuda_batch8={"failed": "exit status 1"})
    assert "*Some GPU (driver 580.1, CUDA 13.0); torch 2.9; 2026-11-23*" in text
    assert "| trt, latency | 1.500 | 4.00 [3.90, 4.10] | 2.00 [1.90, 2.10] | 0.900 |" in text
    assert "- torch: no compiler" in text
    assert "latency/net-fp16-ort-cuda-batch8: failed: exit status 1" in text


def test_both_ways_to_cut_are_compared(on_gpu):
    line = "| net-fp16, batch 8 | trt | 0.900 | 0.600 | 1.50 | trt, latency: 4.00 |"
    assert line in on_gpu("latency", **ENGINES)


def test_the_gain_is_split_into_its_causes(on_gpu):
    """Each rung over the one before it; of torch's own the best, however it was had."""
    text = on_gpu("latency", **ENGINES)
    rungs = text[text.index("### The gain, cause by cause") : text.index("### Engines")]
    assert [line for line in rungs.splitlines() if line.startswith("| t")] == [
        "| torch eager, dense | 1.500 | 1.00 | 1.00 |",
        "| torch compiled, dense | 1.500 | 1.60 | 1.60 |",
        "| trt, dense | 1.500 | 2.00 | 1.25 |",
        "| trt, uniform | 1.500 | 2.50 | 1.25 |",
        "| trt, latency | 1.500 | 4.00 | 1.60 |",
    ]


def test_every_piece_of_a_gpu_is_shown(on_gpu):
    tables = {"target": "trt", "precision": "fp16", "batch": 8,
              "kinds": {"conv": {"points": 7, "ms": [0.1, 0.2, 0.3]}}}  # fmt: skip
    on_gpu(
        "latency",
        net_fp16_latency={"macs_left": 0.5, "cost_tables": tables},
        trt_rtx_anyway={"opened": False, "error": "Err: no sm90", "status": "not listed"},
    )
    on_gpu(
        "memory",
        net_fp16_trt_batch8={
            "target": "trt",
            "dense": {"engine_bytes": 2e6, "device_bytes": 3e8},
            "latency": {"absent": "no engine was built"},
        },
    )
    loop = {"images_per_s": 4321.0}
    on_gpu(
        "speed",
        cifar={
            "distillation": {
                "wall": {"diffc": loop},
                "threads": 1,
                "torch": "2.9",
                "batch": 128,
                "device": "cuda",
                "load_average": [0.0],
            }
        },
    )
    on_gpu(
        "study",
        cifar_10={
            "study": {"complete": False},
            "table": "| row | ours |",
            "unfinished": "out of time",
        },
    )
    counts = {"passed": 5, "failed": 1, "skipped": 2}
    text = on_gpu("tests", gpu={"counts": counts, "reasons": {}})
    for said in (
        "5 passed, 1 failed, 2 skipped",
        "| conv | 7 | 0.1000 | 0.2000 | 0.3000 |",
        "refused: Err: no sm90",
        "The target itself says: not listed",
        "| net-fp16-trt-batch8 | 2.0 | 300 (GPU) | - | no engine was built |",
        "| diffc | 4321.0 |  |",
        "| row | ours |",
        "Not all rows are there yet",
        "- study/cifar-10: unfinished: out of time",
    ):
        assert said in text, said  # fmt: skip


def test_what_is_left_in_work_is_no_result(on_gpu):
    """OUT/work may still be there: its JSON files and pictures belong to no piece."""
    work = on_gpu.folder / "work"
    work.mkdir(parents=True)
    (work / "quality.json").write_text('{"rows": {}}')
    (work / "list.json").write_text("[]")
    (work / "quality.png").write_bytes(b"x")
    (on_gpu.folder / "study").mkdir()
    (on_gpu.folder / "study" / "cifar-10.png").write_bytes(b"x")
    text = on_gpu("study", cifar_10={"study": {"complete": True}, "table": "| row |"})
    assert "![cifar-10](images/results/some-gpu-study-cifar-10.png)" in text
    assert "quality.png" not in text
    assert (on_gpu.folder.parents[1] / "pictures" / "some-gpu-study-cifar-10.png").exists()


def test_a_rehearsal_shows_counts_and_no_figures(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    jobs = {
        "latency/a": {"state": "done", "seconds": 1234.5},
        "latency/b": {"state": "skipped", "seconds": 0.0, "reason": "no NVIDIA GPU here"},
    }
    content = {"date": "2026-11-24T01:02:03", "jobs": jobs}
    (tmp_path / "gpu-rehearsal.json").write_text(json.dumps(content))
    text = script.page()
    assert (
        "Rehearsed on 2026-11-24 on a CPU with small networks: 1 jobs done, 1 skipped with their "
        "reasons; nothing was measured on a GPU." in text
    )
    assert "- skipped: no NVIDIA GPU here" in text and "1234" not in text


def test_a_section_says_when_or_that_nobody_knows(script, tmp_path, monkeypatch):
    """The gate's, the serving runtime's and the study's files have had no date."""
    environment = {"cpu": "x", "cores": 1, "threads": 1, "onnxruntime": "1", "load_average": 0.0}
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    made = {
        script.gate: {"engine": "e", "limit": "5 %", "trials": [], "slowdowns": []},
        script.serving: {"runtime_ms_per_step": {}, "import_seconds": 0, "pipeline_over_engine": 1},
        script.quality: {"how": {"environment": environment}},
    }
    for section, content in made.items():
        found = {"environment": environment, **content}
        assert "date not recorded" in section(found)[0]
        assert "2026-11-24" in section({**found, "date": "2026-11-24T00:00:00"})[0]


def test_five_figures_come_first_and_the_others_are_folded(script):
    text = script.page()
    first = text.split("\n## ")[1]
    assert first.startswith("Five figures to read first\n")
    assert len([line for line in first.splitlines() if line.startswith("| ")]) == 5 + 1
    for section in text.split("\n## ")[2:]:
        tables = section.split("<details")[0].split("\n")
        assert not any(line.startswith("|") for line in tables), section[:60]
    assert text.count("<details") == text.count("</details>") >= 10


def test_a_transformers_rows_stand_beside_both_cuts_and_a_stopped_run_says_so(script):
    row = {
        "latency_left": {"median": 0.512, "ci95": [0.5, 0.52]}, "latency_ms": 2.5, "macs": 7e7,
        "parameters": 2e6, "frechet": {"value": 20.0, "se": 0.5}, "ssim": {"mean": 0.6},
        "held_out": 0.05, "training": {"steps": 70},
    }  # fmt: skip
    how = {
        "dense_seconds": 600.0, "seconds": 90.0, "ratio": 0.5, "images": 512, "threads": 1,
        "target": "ort-cpu", "loop": "ddim:20", "test_images": 10, "classifier_accuracy": 0.9,
    }  # fmt: skip
    results = {**ABOUT, "how": how, "rows": {"width+depth": row, "width": row}, "complete": False,
               "further": {"width": {"value": 1.5, "se": 0.25}}}  # fmt: skip
    text = "\n".join(script.transformer(results))
    assert (
        "| width | 0.512 [0.500, 0.520] | 2.50 | 70.0 M | 2.00 M | 20.00 ± 0.50 | +1.50 ± 0.25 |"
        in text
    )
    assert "rows are missing" in text
    assert "rows are missing" not in "\n".join(script.transformer({**results, "complete": True}))
