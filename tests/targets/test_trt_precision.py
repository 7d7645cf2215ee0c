"""The inspector's JSON of TensorRT 10 and of 11 says the same."""

import json

import pytest
from support.fake_tensorrt import install

from diffc_export.targets.trt import TARGET
from diffc_export.targets.trt_precision import coverage, engine_elements, engine_tensors

LAYERS = [
    {"Name": "conv", "LayerType": "CaskConvolution", "Weights": {"Type": "Half", "Count": 576}},
    {"Name": "dq", "Weights": {"Type": "Int8", "Count": 64}},
    {"Name": "relu", "Weights": {"Type": "Half", "Count": 0}},
    "a layer that is only a name",
]
TEN = json.dumps({"Layers": LAYERS, "Bindings": ["sample", "out"]})
ELEVEN = json.dumps({"Layers": LAYERS, "I/O Tensors": [{"Name": "sample"}, {"Name": "out"}]})


def test_both_forms_are_read():
    for text in (TEN, ELEVEN):
        assert engine_elements(text) == [("fp16", 576), ("int8", 64)]
        assert engine_tensors(text) == ["sample", "out"]


TYPED = [("fp16", 900), ("fp32", 100)]


def test_how_much_an_inspector_tells_of():
    assert coverage([("fp16", 250), ("int8", 250)], TYPED) == 0.5
    assert coverage([("fp16", 999), ("e8m0", 1)], TYPED) == 0.0
    assert coverage([], TYPED) == coverage([("fp16", 1)], []) == 0.0


@pytest.mark.parametrize(
    ("count", "kind", "held", "read_from"),
    [
        (600, "Int8", {"int8": 1.0}, "engine inspector"),
        (400, "Int8", {"fp16": 0.9, "fp32": 0.1}, "strongly typed network"),
        (600, "E8M0", {"fp16": 0.9, "fp32": 0.1}, "strongly typed network"),
    ],
)
def test_an_inspector_that_tells_of_little_is_not_believed(
    monkeypatch, count, kind, held, read_from
):
    library = install(monkeypatch)
    layer = {"Name": "conv", "Weights": {"Type": kind, "Count": count}}
    library.inspected = json.dumps({"Layers": [layer]})
    monkeypatch.setattr(TARGET, "_no_run_reason", lambda: "")
    found, details = TARGET._held(library, b"", TYPED)
    assert (found, details["precision_read_from"]) == (held, read_from)
    assert details["inspected"] == (count / 1000 if kind == "Int8" else 0.0)
