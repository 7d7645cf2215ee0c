"""Export and conversion weight by weight: what they hold in memory at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from diffc_export.onnx import weights
from diffc_export.onnx.export import GraphOptions, export_onnx
from diffc_export.onnx.precision import LOW, convert_precision
from diffc_export.onnx.weights import ApartModel, open_apart, save, without_data
from diffc_export.specs import TensorSpec
from diffc_runtime import files

LAYERS, WIDTH = 24, 256
ONE = 4 * WIDTH * WIDTH  # bytes of a weight
SPECS = [TensorSpec("sample", (WIDTH,), "float32", "sample")]


def examples(specs, batch, generator):
    shapes = {spec.name: (batch, *spec.shape) for spec in specs}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of many equal layers as an ONNX folder, and the most that numpy held meanwhile."""
    folder = tmp_path_factory.mktemp("streams")
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "LARGEST_SINGLE_FILE", 3 * ONE)
        options = GraphOptions(simplify=False)
        call = lambda module, inputs: module(inputs["sample"])  # noqa: E731
        export_onnx(model, call, SPECS, folder / "fp32", examples=examples, options=options)
    return folder / "fp32", model


def peak_of(work):
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_what_is_written_is_the_modules_own_weights(exported):
    folder, model = exported
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(folder / "model.onnx").graph.initializer
    }
    matrices = [value for value in arrays.values() if value.shape == (WIDTH, WIDTH)]
    mine = [layer.weight.detach().numpy() for layer in model]
    assert len(matrices) == LAYERS
    for one in mine:
        assert any(np.array_equal(one, other) or np.array_equal(one.T, other) for other in matrices)


@pytest.mark.parametrize("precision", sorted(LOW))
def test_a_conversion_holds_few_weights_at_once(exported, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(weights, "LARGEST_SINGLE_FILE", ONE)
    monkeypatch.setattr(files, "_BLOCK", 1 << 16)  # of hashing
    folder = exported[0]
    convert_precision(folder, tmp_path / "warm", precision)  # what libraries import and keep
    peak = peak_of(lambda: convert_precision(folder, tmp_path / "low", precision))
    assert peak < 6 * ONE < LAYERS * ONE / 3
    mine, whole = (onnx.load(one / "model.onnx") for one in (tmp_path / "low", folder))
    values = {t.name: t for t in whole.graph.initializer}
    dtype = helper.tensor_dtype_to_np_dtype(LOW[precision])
    for tensor in mine.graph.initializer:  # each is the fp32 one, rounded by numpy
        name, _, kind = tensor.name.rpartition("/")
        expected = numpy_helper.to_array(values[name])
        expected = expected.astype(dtype) if int(kind) == LOW[precision] else expected
        assert numpy_helper.to_array(tensor).tobytes() == expected.tobytes()


def test_weights_are_read_one_by_one_when_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LARGEST_SINGLE_FILE", 0)
    names = [f"w{index}" for index in range(20)]
    tensors = [without_data(name, 1, (WIDTH, WIDTH)) for name in names]
    graph = helper.make_graph([], "g", [], [], tensors)

    def value(index):
        return lambda: np.full((WIDTH, WIDTH), index, np.float32)

    values = {name: value(index) for index, name in enumerate(names)}
    peak = peak_of(lambda: save(helper.make_model(graph), tmp_path / "model.onnx", values))
    assert ONE < peak < 4 * ONE
    again = open_apart(tmp_path / "model.onnx")
    assert {name: float(read().mean()) for name, read in again.values.items()} == {
        name: index for index, name in enumerate(names)
    }


def test_a_small_file_is_one_file_and_apart_is_empty(tmp_path):
    model = helper.make_model(helper.make_graph([], "g", [], [], [without_data("w", 1, (300,))]))
    save(model, tmp_path / "model.onnx", {"w": lambda: np.arange(300, dtype=np.float32)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    again = open_apart(tmp_path / "model.onnx")
    assert isinstance(again, ApartModel) and not again.values
    np.testing.assert_array_equal(
        numpy_helper.to_array(again.proto.graph.initializer[0]), np.arange(300, dtype=np.float32)
    )
