"""ort-cpu on real files: what it computes, what it says of precision, what it refuses."""

import ctypes
import itertools
import os
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file
from support.onnx_folder import describe_folder, write_handmade_folder

from bench.own_memory_watcher import own_memory
from diffc.errors import CheckFailed, InputError
from diffc_export.events import drain
from diffc_export.targets import ort, ort_cpu, target
from diffc_export.targets.base import BuildOptions
from diffc_runtime.libraries import ort as library
from diffc_runtime.loaders.ort_cpu import open_model

pytest.importorskip("onnxruntime")


def build(folder, out, **options):
    return drain(target("ort-cpu").build(folder, BuildOptions(**options), out))


def test_engine_computes_what_numpy_does(folder, tmp_path):
    info = build(folder, tmp_path / "e", batch=(1, 4))
    runner = target("ort-cpu").load(tmp_path / "e")
    reference = load_file(folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"] for name in ("sample", "timestep")}
    np.testing.assert_allclose(
        runner(inputs)["out_sample"], reference["output"], rtol=1e-5, atol=1e-5
    )
    bound = runner.bind(inputs)
    assert bound.run() > 0
    np.testing.assert_array_equal(bound.outputs()["out_sample"], runner(inputs)["out_sample"])
    assert info.precision_found == "fp32"
    assert info.precision_shares == {"fp32": 1.0}
    assert info.build_seconds > 0


def test_engine_of_a_unet_computes_what_torch_did(unet_folder, tmp_path):
    build(unet_folder, tmp_path / "e", batch=(4,))
    runner = target("ort-cpu").load(tmp_path / "e", threads=1)
    reference = load_file(unet_folder / "reference.safetensors")
    inputs = {name: reference[f"input.{name}"] for name in ("sample", "timestep")}
    np.testing.assert_allclose(runner(inputs)["out_sample"], reference["output"], atol=2e-5)


def test_external_data_travel_with_the_engine(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    (folder / "w").mkdir()
    path, external = folder / "model.onnx", "w/weights.bin"
    onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=200)
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("sha256", "x"))
    info = build(folder, tmp_path / "e")
    assert set(info.files) == {"model.onnx", "w/weights.bin"}
    target("ort-cpu").load(tmp_path / "e")


def test_half_precision_that_falls_back_is_an_error(tmp_path):
    """ONNX Runtime has no fp16 convolutions on this processor and computes them in fp32."""
    folder = write_handmade_folder(tmp_path / "half", dtype=np.float16)
    with pytest.raises(CheckFailed, match="fp16 was asked for, the built engine computes in fp32"):
        build(folder, tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16)])
def test_a_precision_is_listed_where_its_engines_can_be_built(tmp_path, precision, dtype):
    folder = write_handmade_folder(tmp_path / "half", dtype=dtype)
    try:
        build(folder, tmp_path / "e")
        builds = True
    except CheckFailed:
        builds = False
    assert (precision in target("ort-cpu").precisions()) == builds
    assert "fp32" in target("ort-cpu").precisions()


def test_halves_are_listed_where_a_convolution_is_computed_in_them(monkeypatch):
    for found, listed in (
        ("fp16", {"fp32", "fp16"}),
        ("fp32", {"fp32"}),
        (None, {"fp32"}),
    ):

        def elements(path, providers, found=found):
            if found is None:
                raise InputError("no kernel")
            return [(found, 9)]

        ort_cpu._has.cache_clear()
        monkeypatch.setattr(ort, "weight_elements", elements)
        assert target("ort-cpu").precisions() == listed
    ort_cpu._has.cache_clear()


def test_unknown_operator_is_named(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    model.graph.node[6].CopyFrom(
        helper.make_node("Frobnicate", ["h2"], ["h3"], name="my_node", domain="nobody")
    )
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("sha256", "x"))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(InputError, match="Frobnicate") as caught:
        build(folder, tmp_path / "e")
    assert "model.onnx" in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_batch_it_was_not_built_for_is_refused(folder, tmp_path):
    build(folder, tmp_path / "e", batch=(1, 4))
    runner = target("ort-cpu").load(tmp_path / "e")
    inputs = {"sample": np.zeros((2, 1, 8, 8), np.float32), "timestep": np.zeros(2, np.int64)}
    with pytest.raises(InputError, match="not built for batch 2") as caught:
        runner(inputs)
    assert "batch 1, 4" in caught.value.hint


def test_int8_layers_are_counted_as_int8():
    """A QLinearConv's weights count as int8, a float MatMul's as fp32."""
    from diffc_export.targets.ort import _heavy

    def weight(name, kind, dims):
        return helper.make_tensor(name, kind, dims, [0] * int(np.prod(dims)))

    graph = helper.make_graph(
        [
            helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"]),
            helper.make_node("MatMul", ["y", "m"], ["z"]),
            helper.make_node("MatMul", ["z", "z"], ["q"]),
        ],
        "g",
        [],
        [],
        [weight("w", TensorProto.INT8, (2, 3)), weight("m", TensorProto.FLOAT, (4, 5))],
    )
    assert list(_heavy(graph)) == [("int8", 6), ("fp32", 20)]


def write_skips(folder, layers, channels, size):
    """An ONNX folder in which the outputs of all ``layers`` layers are needed at the end."""
    write_handmade_folder(folder, size=size)
    named = [f"x{i}" for i in range(layers + 1)]
    nodes = [
        helper.make_node("Tile", ["sample", "repeats"], ["x0"]),
        *(helper.make_node("Sin", [one], [after]) for one, after in itertools.pairwise(named)),
        helper.make_node("Concat", named, ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axis"], ["out_sample"]),
    ]
    sample, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, size, size])
        for name in ("sample", "out_sample")
    )
    time = helper.make_tensor_value_info("timestep", TensorProto.INT64, ["batch"])
    constants = [
        onnx.numpy_helper.from_array(np.array([1, channels, 1, 1]), "repeats"),
        onnx.numpy_helper.from_array(np.array([1]), "axis"),
    ]
    graph = helper.make_graph(nodes, "skips", [sample, time], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    describe_folder(folder, (1, size, size))
    return folder


def added_memory(*calls):
    """What three rounds of calls add to this process's own memory, once malloc is trimmed."""
    trim = ctypes.CDLL(None).malloc_trim
    trim(0)
    before = own_memory(os.getpid())
    for _ in range(3):
        for call in calls:
            call()
    trim(0)
    return own_memory(os.getpid()) - before


LAYERS, CHANNELS, SIZE = 16, 2048, 16


def inputs_of(batch):
    image = np.ones((batch, 1, SIZE, SIZE), np.float32)
    return {"sample": image, "timestep": np.ones(batch, np.int64)}


@pytest.fixture
def skips(tmp_path):
    build(write_skips(tmp_path / "onnx", LAYERS, CHANNELS, SIZE), tmp_path / "e", batch=(1, 3))
    return tmp_path / "e"


def unplanned_memory(folder, batch=1):
    """That of a session which plans no memory, so that nothing lies beside what a call takes."""
    options = library.session_options(1)
    options.enable_mem_pattern = False
    session = library.open_session(folder / "model.onnx", options, [library.CPU])
    memory = added_memory(lambda: session.run(None, inputs_of(batch)))
    assert memory > 4 * batch * LAYERS * CHANNELS * SIZE**2
    return memory


@pytest.mark.parametrize("way", ["engine", "bound", "runtime"])
def test_a_call_has_its_activations_in_memory_once(skips, way):
    least, inputs = unplanned_memory(skips), inputs_of(1)
    engine = target("ort-cpu").load(skips, threads=1)
    served = open_model(skips, {"outputs": [{"name": "out_sample"}]}, 1, [library.CPU])
    call = {
        "engine": lambda: engine(inputs),
        "bound": engine.bind(inputs).run,
        "runtime": lambda: served(inputs),
    }[way]
    assert added_memory(call) < 1.2 * least


@pytest.mark.parametrize("way", ["engine", "runtime"])
def test_a_large_file_has_the_activations_of_its_largest_call(skips, way, monkeypatch):
    """ONNX Runtime would take the plan of three rows for one row too, and have both in memory."""
    monkeypatch.setattr(library, "LARGE_FILE", 0)
    engine = target("ort-cpu").load(skips, threads=1)
    served = open_model(skips, {"outputs": [{"name": "out_sample"}]}, 1, [library.CPU])
    call = {"engine": engine, "runtime": served}[way]
    calls = [partial(call, inputs_of(batch)) for batch in (1, 3)]
    assert added_memory(*calls) < 1.2 * unplanned_memory(skips, batch=3)


def test_memory_goes_back_after_the_first_call_that_succeeds():
    first, inputs, given = library.FirstCalls(), [np.ones((2, 3))], []

    def fails(options):
        given.append(options)
        raise MemoryError

    with pytest.raises(MemoryError):
        first.call(inputs, fails)
    assert first.call(inputs, lambda options: given.append(options) or 5) == 5
    assert first.call(inputs, lambda options: given.append(options)) is None
    assert first.call([np.ones((3, 2))], lambda options: given.append(options)) is None
    assert [options is None for options in given] == [False, False, True, False]
