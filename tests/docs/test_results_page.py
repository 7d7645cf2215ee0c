"""docs/results.md says what bench/results hold, and nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
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


def test_a_gpus_results_become_tables(script, tmp_path, monkeypatch):
    """Efficiency is the speed-up over dense times the MACs left; failures are told."""
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    folder = tmp_path / "gpu" / "some-gpu"
    (folder / "latency").mkdir(parents=True)
    (folder / "index.json").write_text("{}")
    environment = {"gpus": [{"name": "Some GPU"}], "cpu": "x", "cores": 2, "packages": {}}
    about = {"piece": "latency", "date": "2026-11-23T00:00:00", "environment": environment}
    two = {"median": 2.0, "ci95": [1.9, 2.1]}
    rows = {
        f"trt, {a}": {"latency_ms": {"p50": 1.5}, "over_torch_eager": two, "over_dense": two}
        for a in ("dense", "latency")
    }
    target = {"target": "trt", "batch": 8, "rows": rows, "absent": {"torch": "no compiler"}}
    for name, content in {
        "net-fp16-latency": {"macs_left": 0.45},
        "net-fp16-trt-batch8": target,
        "net-fp16-ort-cuda-batch8": {"failed": "exit status 1"},
    }.items():
        (folder / "latency" / f"{name}.json").write_text(
            json.dumps({**about, "name": name, **content})
        )
    text = script.page()
    assert "Some GPU" in text
    assert "| trt, latency | 1.500 | 2.00 [1.90, 2.10] | 2.00 [1.90, 2.10] | 0.900 |" in text
    assert "- torch: no compiler" in text
    assert "latency/net-fp16-ort-cuda-batch8: failed: exit status 1" in text
