"""The pairs of a graph whose weights lie in a file, against the library's own quantiser."""

from __future__ import annotations

import ctypes
import math
import os
import tracemalloc
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.onnx_folder import write_handmade_folder

from bench.full_size import OwnMemory
from bench.own_memory_watcher import own_memory
from diffc_export.events import drain
from diffc_export.onnx import weights
from diffc_export.onnx.fp8 import to_fp8
from diffc_export.onnx.layer_macs import OPERATORS
from diffc_export.onnx.qdq import Pairs, activation_ranges, write_pairs
from diffc_export.onnx.quantize import QuantizeOptions, quantize, trajectory_feeds
from diffc_export.onnx.weights import open_apart, set_aside
from diffc_export.targets.onnx_file import read_onnx

pytest.importorskip("onnxruntime")

ALL = (Pairs(), Pairs(asymmetric=True), Pairs("fp8"))


THREADS = 1
"""Of both: a sum that several threads share is rounded otherwise, and so are ranges."""


def by_the_library(path, feeds, pairs, folder, monkeypatch):
    """What ``quantize_static`` makes of a file that it reads whole, in as many threads as ours."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        calibrate,
        quantize_static,
    )

    own = calibrate.onnxruntime.SessionOptions

    def options():
        chosen = own()
        chosen.intra_op_num_threads = THREADS
        return chosen

    class Reader(CalibrationDataReader):
        rows = iter(feeds)

        def get_next(self):
            return next(self.rows, None)

    with monkeypatch.context() as patched:
        patched.setattr(calibrate.onnxruntime, "SessionOptions", options)
        quantize_static(
            str(path),
            str(folder / "int8.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=pairs.precision == "int8",
            activation_type=QuantType.QUInt8 if pairs.asymmetric else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": not pairs.asymmetric,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "MatMulConstBOnly": True,
                "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": OPERATORS,
            },
        )
    whole = onnx.load(folder / "int8.onnx")
    if pairs.precision == "fp8":
        to_fp8(whole, onnx.load(path))
    return whole


def by_parts(path, feeds, pairs, folder, *, in_file):
    apart = open_apart(path)
    plain = set_aside(apart.proto, folder, "plain.data", apart.values)
    ranges = activation_ranges(plain, folder, feeds, THREADS, in_file=in_file)
    whole = drain(write_pairs(plain, folder, ranges, pairs))
    onnx.save(whole, folder / "whole.onnx")
    return onnx.load(folder / "whole.onnx")


def contents(model):
    """The nodes in their order, and the weights' types, shapes and bytes."""
    tensors = [
        (t.name, t.data_type, list(t.dims), numpy_helper.to_array(t).tobytes())
        for t in model.graph.initializer
    ]
    return [node.SerializeToString() for node in model.graph.node], tensors


@pytest.fixture
def both(tmp_path, monkeypatch):
    """The library's and ours, in the folders a and b."""

    def quantised(path, feeds, pairs, *, in_file=False):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        theirs = by_the_library(path, feeds, pairs, tmp_path / "a", monkeypatch)
        return theirs, by_parts(path, feeds, pairs, tmp_path / "b", in_file=in_file)

    return quantised


@pytest.mark.parametrize("pairs", ALL, ids=str)
def test_a_unets_pairs_are_the_librarys(unet_folder, tmp_path, both, pairs):
    source = read_onnx(unet_folder)
    feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=1)))
    theirs, ours = both(source.path, feeds, pairs)
    assert contents(ours) == contents(theirs)
    assert (tmp_path / "b" / "whole.data").stat().st_size > 50_000


@pytest.mark.parametrize("in_file", [False, True])
def test_ranges_are_measured_with_as_many_threads_as_are_given(
    unet_folder, tmp_path, monkeypatch, in_file
):
    import onnxruntime

    source, threads, opened = read_onnx(unet_folder), [], onnxruntime.InferenceSession
    feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=1)))[:1]

    def session(path, sess_options, **kwargs):
        threads.append(sess_options.intra_op_num_threads)
        return opened(path, sess_options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    apart = open_apart(source.path)
    plain = set_aside(apart.proto, tmp_path, "plain.data", apart.values)
    assert activation_ranges(plain, tmp_path, feeds, 3, in_file=in_file)
    assert threads == [3]


def test_of_weights_that_stay_in_their_file_only_ranges_are_rounded_otherwise(unet_folder, both):
    """The runtime's kernels for weights that it has not laid out add up in another order."""
    source = read_onnx(unet_folder)
    feeds = drain(trajectory_feeds(source, QuantizeOptions(trajectories=1)))
    theirs, ours = (contents(m) for m in both(source.path, feeds, ALL[1], in_file=True))
    assert ours[0] == theirs[0]
    other = [(mine, one) for mine, one in zip(ours[1], theirs[1], strict=True) if mine != one]
    assert len(other) < 60
    for (*mine, values), (*one, expected) in other:
        assert mine == one and mine[0].endswith("_scale") and mine[2] == []
        values, expected = (np.frombuffer(b, np.float32) for b in (values, expected))
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def shared_graph(path):
    """Layers that share a weight or a bias, of every kind, and a bias beside tiny weights."""
    generator = np.random.default_rng(0)
    arrays = {
        "w": generator.standard_normal((32, 32)),
        "conv": generator.standard_normal((32, 4, 3, 3)) * 1e-12,
        "bias": generator.standard_normal(32) * 100,
        "wide": generator.standard_normal((300,)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv", "c_bias"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], "mean", keepdims=0),
        helper.make_node("Gemm", ["m", "w", "bias"], ["g"], "gemm", transB=1),
        helper.make_node("Gemm", ["g", "w", "bias"], ["h"], "again"),
        helper.make_node("MatMul", ["h", "w"], ["p"], "product"),
        helper.make_node("MatMul", ["p", "w"], ["q"], "other"),
        helper.make_node("Gemm", ["q", "v", "bias"], ["r"], "third"),
        helper.make_node("Add", ["r", "w"], ["y"], "sum"),  # in fp32
    ]
    arrays["v"], arrays["c_bias"] = arrays["w"] * 1e-3, arrays["bias"]
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    tensors.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [1, 4, 8, 8])], [value("y", 1, [32, 32])], tensors
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return [{"x": generator.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("small", [64, 1024])
@pytest.mark.parametrize("pairs", ALL, ids=str)
def test_shared_weights_and_biases_are_as_the_library_has_them(
    tmp_path, monkeypatch, both, pairs, small
):
    """Biases lie in the file too, or do not."""
    monkeypatch.setattr(weights, "SMALL", small)
    feeds = shared_graph(tmp_path / "model.onnx")
    theirs, ours = both(tmp_path / "model.onnx", feeds, pairs)
    assert contents(ours) == contents(theirs)


def test_a_large_files_weights_are_converted_one_by_one(tmp_path, monkeypatch):
    """Its result is that of a small file but for the last digits of ranges."""
    folder = write_handmade_folder(tmp_path / "onnx", channels=32)
    options = QuantizeOptions(trajectories=1, tolerance=9.0)
    drain(quantize(folder, tmp_path / "small", options))
    monkeypatch.setattr(weights, "LARGEST_SINGLE_FILE", 0)
    monkeypatch.setattr(weights, "SMALL", 64)
    facts = drain(quantize(folder, tmp_path / "large", options))
    assert facts["kept_fp32"] == [] and "kept_fp32_by" not in facts
    data = (tmp_path / "large" / "model.onnx.data").stat().st_size
    assert data > 2 * 32 * 9
    small, large = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(f / "model.onnx").graph.initializer}
        for f in (tmp_path / "small", tmp_path / "large")
    )
    assert small.keys() == large.keys()
    for name, values in small.items():
        np.testing.assert_allclose(large[name], values, rtol=1e-5)
    tight = QuantizeOptions(trajectories=1, tolerance=0.9 * facts["int8_error"])
    facts = drain(quantize(folder, tmp_path / "tight", tight))
    assert len(facts["kept_fp32"]) == 1 and facts["kept_fp32_by"] == "groups"


def layers_in_a_row(folder, count, width, rows=1):
    """A graph of matrix products whose weights lie in a file of ``folder``, and its input."""
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((width, width), np.float32) / np.float32(math.sqrt(width))
    names = ["x", *(f"h{i}" for i in range(count))]
    nodes = [
        helper.make_node("MatMul", [a, f"w{i}"], [b], f"layer{i}")
        for i, (a, b) in enumerate(pairwise(names))
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [rows, width])], [value(names[-1], 1, [rows, width])],
        [weights.without_data(f"w{i}", 1, (width, width)) for i in range(count)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    read = lambda: matrix  # noqa: E731
    plain = set_aside(model, folder, "plain.data", {f"w{i}": read for i in range(count)})
    return plain, [{"x": np.ones((rows, width), np.float32)}]


def test_few_weights_are_in_memory_at_once(tmp_path):
    """Of 24 layers: what numpy and protobuf's own bytes take while pairs are written."""
    count, width = 24, 256
    one = 4 * width * width
    plain, feeds = layers_in_a_row(tmp_path, count, width)
    ranges = activation_ranges(plain, tmp_path, feeds, 1, in_file=True)
    tracemalloc.start()
    try:
        whole = drain(write_pairs(plain, tmp_path, ranges, Pairs()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * one < count * one / 2
    assert whole.ByteSize() < one
    assert (tmp_path / "whole.data").stat().st_size >= count * one / 4


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_what_was_written_is_in_memory_no_more(tmp_path, precision):
    """Protobuf's memory is none of Python's: what the system says the process has of its own."""
    count, width = 24, 1024
    plain, feeds = layers_in_a_row(tmp_path, count, width)
    ranges = activation_ranges(plain, tmp_path, feeds, 1, in_file=True)
    trim = ctypes.CDLL(None).malloc_trim
    trim(0)
    before = own_memory(os.getpid())
    whole = drain(write_pairs(plain, tmp_path, ranges, Pairs(precision)))
    trim(0)
    more = own_memory(os.getpid()) - before
    assert len(whole.graph.node) > 2 * count
    assert more < count * width * width / 2  # half of the weights in a byte each


@pytest.mark.parametrize("in_file", [False, True])
def test_few_activations_are_in_memory_at_once(tmp_path, in_file):
    """By itself ONNX Runtime would look for all ranges at the end of a call."""
    count, width, rows = 24, 512, 4096
    plain, feeds = layers_in_a_row(tmp_path, count, width, rows)
    with OwnMemory() as memory:
        before = memory.peak = own_memory(os.getpid())
        ranges = activation_ranges(plain, tmp_path, feeds, 1, in_file=in_file)
    assert len(ranges) > count
    weights_of_all = 0 if in_file else 4 * count * width * width
    assert memory.peak - before - weights_of_all < count * 4 * rows * width / 2
