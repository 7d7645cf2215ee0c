"""Every target on a GPU: builds, computes what torch fp32 did, again with other inputs, in time."""

import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.gpu_targets import needs
from support.onnx_folder import write_handmade_folder
from support.quick import QUICK

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info

WAYS = {
    "torch eager": ("torch", {"variant": "eager"}),
    "torch graphs": ("torch", {"variant": "graphs"}),
    "ort-cuda": ("ort-cuda", {}),
    "trt": ("trt", {}),
    "trt-rtx": ("trt-rtx", {}),
}
# relative L2 against torch fp32 on the processor
CLOSE = {"fp32": 2e-3, "fp16": 5e-3, "bf16": 4e-2}


def rows(unet_folder):
    """(inputs, outputs): four rows that torch computed in fp32 on the processor."""
    reference = load_file(unet_folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"] for name in ("sample", "timestep")}
    return inputs, reference["output"]


def turned(inputs):
    """The same rows in the opposite order."""
    return {name: rows[::-1].copy() for name, rows in inputs.items()}


def assert_close(found, expected, precision):
    found = np.asarray(found, np.float64)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - expected) <= CLOSE[precision] * np.linalg.norm(expected)


def check_parity(runner, unet_folder, precision):
    """Right, right with other inputs (a graph reads its buffers anew), and right again."""
    inputs, expected = rows(unet_folder)
    for given, wanted in ((inputs, expected), (turned(inputs), expected[::-1]), (inputs, expected)):
        assert_close(runner(given)["out_sample"], wanted, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_it_computes_what_torch_did(engine, unet_folder, way, precision):
    name, options = WAYS[way]
    folder = engine(name, precision, **options)
    assert read_info(folder).precision_found == precision
    runner = target(name).load(folder)
    check_parity(runner, unet_folder, precision)
    runner.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_compiled_computes_the_same(engine, unet_folder, precision):
    runner = target("torch").load(engine("torch", precision, variant="compiled"))
    check_parity(runner, unet_folder, precision)


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_call_is_timed_on_the_device(engine, unet_folder, way):
    """A call's seconds are no more than passed by the clock, and the outputs are there."""
    name, options = WAYS[way]
    runner = target(name).load(engine(name, **options))
    inputs, expected = rows(unet_folder)
    bound = runner.bind(inputs)
    bound.run()
    for _ in range(5):
        start = time.perf_counter()
        seconds = bound.run()
        assert 0 < seconds <= time.perf_counter() - start
    assert_close(bound.outputs()["out_sample"], expected, "fp32")


@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_without_a_graph_it_computes_the_same(engine, unet_folder, name):
    runner = target(name).load(engine(name))
    inputs, expected = rows(unet_folder)
    for bound in (runner.bind(inputs), runner.bind_uncaptured(inputs)):
        bound.run()
        assert_close(bound.outputs()["out_sample"], expected, "fp32")


@pytest.mark.parametrize("name", ["torch", "ort-cuda", "trt", "trt-rtx"])
def test_several_batch_sizes_in_turn(engine, unet_folder, name):
    runner = target(name).load(engine(name, batch=(1, 4)))
    inputs, expected = rows(unet_folder)
    for size in (1, 4, 1):
        found = runner({key: value[:size] for key, value in inputs.items()})["out_sample"]
        assert_close(found, expected[:size], "fp32")


@pytest.mark.parametrize("one_profile", [False, True])
@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_several_resolutions_in_turn(name, one_profile, tmp_path):
    """Each against what numpy computed at it; a graph or a buffer of one is no other's."""
    sizes = ((8, 8), (16, 16), (8, 24))
    folder = write_handmade_folder(tmp_path / "onnx", others=sizes[1:])
    options = BuildOptions(batch=(1, 4), one_profile=one_profile)
    drain(needs(name).build(folder, options, tmp_path / "engine"))
    runner = target(name).load(tmp_path / "engine")
    tensors = load_file(folder / "reference.safetensors")
    for height, width in (*sizes, *sizes):
        at = "" if (height, width) == sizes[0] else f"at.{height}x{width}."
        for batch in (1, 4):
            inputs = {key: tensors[f"{at}input.{key}"][:batch] for key in ("sample", "timestep")}
            found = runner(inputs)["out_sample"]
            assert_close(found, tensors[f"{at}output"][:batch], "fp32")
    runner.close()


@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_one_profile_over_several_batch_sizes(engine, unet_folder, name):
    """A graph of ONNX Runtime's would hold the buffers of the first of them."""
    runner = target(name).load(engine(name, batch=(1, 4), one_profile=True))
    inputs, expected = rows(unet_folder)
    for size in (4, 2, 1, 4):
        found = runner({key: value[:size] for key, value in inputs.items()})["out_sample"]
        assert_close(found, expected[:size], "fp32")


@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_the_runner_says_how_it_runs(engine, unet_folder, name):
    runner = target(name).load(engine(name))
    runner.bind(rows(unet_folder)[0])
    details = runner.info.details
    assert (details["timed_by"], details["captured"]) == ("GPU events", True)
    assert "not_captured" not in details


@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
def test_the_built_engine_is_read_back(engine, name):
    details = read_info(engine(name, "fp16")).details
    assert details["precision_read_from"] == "engine inspector"


def test_timings_and_kernels_are_kept_for_the_next_time(engine, tmp_path, monkeypatch):
    from diffc_export.targets import trt_engine
    from diffc_export.targets.trt import TARGET as trt

    if trt.status().runnable:
        engine("trt", cache=tmp_path / "timings")
        assert [file.suffix for file in (tmp_path / "timings").iterdir()] == [".timing"]
    kept = tmp_path / "rtx.kernels"
    monkeypatch.setattr(
        trt_engine, "kernel_cache_path", lambda flavour: kept if flavour.ahead_of_time else None
    )
    runner = target("trt-rtx").load(engine("trt-rtx"))
    runner.bind({"sample": np.ones((4, 1, 8, 8), np.float32), "timestep": np.arange(4)})
    assert kept.stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ort-cuda", "trt", "trt-rtx"])
def test_a_latency_plan_is_timed_on_this_gpu(tiny_model, tmp_path, name):
    """The tables of `--allocate latency` come from this GPU, and the plan says so."""
    import json

    import diffc

    device = needs(name).status().device
    prune = {**QUICK["prune"], "allocate": "latency"}
    diffc.compile(tiny_model, ratio=0.4, target=name, out=tmp_path / "out", stop="plan",
                  options={**QUICK, "prune": prune})  # fmt: skip
    said = json.loads((tmp_path / "out" / "plan.json").read_text())["why"]["latency"]
    assert said["bench"]["target"] == name and said["bench"]["device"] == device
    assert said["measured"]["compressed_ms"] > 0 and said["measured"]["dense_ms"] > 0
