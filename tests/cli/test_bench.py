"""diffc bench A B ...: what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.onnx_folder import write_handmade_folder

pytest.importorskip("onnxruntime")
QUICK = ("--seconds", "0")


def bench(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "diffc", "bench", *map(str, args)], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "100", **env},
    )  # fmt: skip


@pytest.fixture
def files(tmp_path):
    return [write_handmade_folder(tmp_path / name, channels) / "model.onnx"
            for name, channels in (("wide", 16), ("narrow", 8))]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN"), (0.0, "zero")])
def test_an_engine_that_computes_nothing_is_never_a_winner(files, value, words):
    import numpy as np
    import onnx

    model = onnx.load(files[1])
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    shape = onnx.numpy_helper.to_array(weight).shape
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(shape, value, np.float32), "w2"))
    dead = files[1].parent.with_name("dead.onnx")
    onnx.save(model, dead)
    done = bench(files[0], dead, *QUICK, "--batch", "1")
    assert done.returncode == 1
    assert words in done.stderr and "dead.onnx" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_json_is_alone_on_stdout(files):
    done = bench(*files, *QUICK, "--batch", "1,4", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert [row["batch"] for row in found["rows"]] == [1, 1, 4, 4]
    first, second = found["rows"][:2]
    assert first["speedup"] is None
    assert second["speedup"]["ci95"][0] <= second["speedup"]["median"]
    assert second["figures"]["latency_ms"]["p50"] > 0
    assert second["figures"]["memory"]["weights_bytes"] is not None
    assert found["threads"] == 1 and len(found["cores"]) == 1


@pytest.mark.slow
def test_people_get_a_table(files):
    done = bench(*files, *QUICK)
    assert done.returncode == 0
    assert all(line.startswith("  memory of ") for line in done.stderr.splitlines())  # progress
    for shown in ("batch 1", "as fast", "noise of the machine", "percentiles:", "trtexec"):
        assert shown in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_one_engine_alone_is_measured(files):
    done = bench(files[0], *QUICK, "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["target"] == "ort-cpu" and row["speedup"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere"], "nowhere"),
        (["nowhere", "nowhere"], "nowhere does not exist"),
        (["FILE", "FILE", "--target", "fastest"], "unknown target 'fastest'"),
        (["FILE", "FILE", "--batch", "0"], "below 1"),
        (["FILE", "FILE", "--batch", "x"], "not a list of whole numbers"),
        (["FILE", "FILE", "--threads", "0"], "threads"),
        (["FILE", "FILE", "--explain", "full"], "belong to one output folder"),
    ],
)
def test_wrong_requests_are_said_in_a_line_or_two(files, args, said):
    done = bench(*(files[0] if arg == "FILE" else arg for arg in args))
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_shapes_that_differ_are_refused(files, tmp_path):
    large = write_handmade_folder(tmp_path / "large", 8, size=16)
    done = bench(files[0], large, *QUICK)
    assert done.returncode == 2 and "do not do the same work" in done.stderr
