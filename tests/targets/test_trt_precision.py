"""The inspector's JSON of TensorRT 10 and of 11 says the same."""

import json

from diffc.targets.trt_precision import engine_elements, engine_tensors

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
