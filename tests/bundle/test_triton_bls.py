"""The calls of ``pipeline_bls`` to its denoiser, without a server.

test_triton_server.py and test_triton_prompts.py ask a real one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffc_runtime
from diffc_runtime import Input, Pipeline, UnfitEngine

BLS = Path(diffc_runtime.__file__).parent / "servers" / "triton" / "bls.py"
SHAPE = (1, 4, 4)
NAMES: Counter[str] = Counter()
"""How many tensors were made, by their names."""


class Tensor:
    """As Triton's: the server sees what the array had when the tensor was first sent."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self.array = name, array
        self.sent: np.ndarray | None = None
        NAMES[name] += 1

    def send(self) -> np.ndarray:
        if self.sent is None:
            self.sent = self.array.copy()
        return self.sent

    def as_numpy(self) -> np.ndarray:
        return self.array


def denoise(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """A denoiser that looks at every input."""
    text = inputs["text"].sum(axis=1).reshape(-1, 1, 1, 1)
    time = inputs["timestep"].reshape(-1, 1, 1, 1)
    return np.sin(inputs["sample"] + text + time / 100).astype(np.float32)


class InferenceRequest:
    """As Triton's, to the model above."""

    def __init__(self, inputs: list[Tensor], **_: object) -> None:
        self.inputs = inputs

    def exec(self) -> Any:
        sent = {tensor.name: tensor.send() for tensor in self.inputs}
        assert all(array.ndim > 1 for array in sent.values())
        broken = bool(np.isnan(sent["text"]).any())
        error = SimpleNamespace(message=lambda: "no number")
        output = Tensor("out", denoise(sent))
        return SimpleNamespace(has_error=lambda: broken, error=lambda: error, output=output)


@pytest.fixture
def bls(monkeypatch) -> Any:
    """The model's file around a stand-in for the server's library."""
    library = ModuleType("triton_python_backend_utils")
    vars(library).update(
        Tensor=Tensor, InferenceRequest=InferenceRequest, TRITONSERVER_MEMORY_CPU=0,
        PreferredMemory=lambda *_: None, get_output_tensor_by_name=lambda got, _: got.output,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setitem(sys.modules, "serving", ModuleType("serving"))
    spec = importlib.util.spec_from_file_location("bls_without_a_server", BLS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    NAMES.clear()
    return module


def pipeline(call: Any, largest: int = 4) -> Pipeline:
    inputs = [
        Input("sample", SHAPE, kind="sample"),
        Input("timestep", (), "int64", "timestep"),
        Input("text", (2,), "float32"),
    ]
    config = {"_class_name": "DDPMScheduler", "clip_sample": False}
    return Pipeline(call, config, SHAPE, inputs=inputs, batches=[(1, largest)])


def remote(bls: Any) -> Any:
    return bls._model_call("denoiser", "out", True, frozenset({"text"}))


@pytest.mark.parametrize("largest", [1, 2, 4])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_are_those_of_the_local_loop(bls, largest, guidance):
    """To the bit, over loops of several requests, whose conditions differ."""
    here, there = pipeline(denoise, largest), pipeline(remote(bls), largest)
    for seed in range(3):
        values = np.random.default_rng(seed).standard_normal((3, 2))
        more = {
            "guidance": guidance,
            "conditions": {"text": values},
            "unconditional": {"text": [0, 0]},
        }
        expected = here.generate(3, 5, seed, **more)
        np.testing.assert_array_equal(there.generate(3, 5, seed, **more), expected)


def test_a_timestep_of_one_image_becomes_a_tensor_once(bls, monkeypatch):
    """For all loops, until there are too many of them; images are those of the local loop."""
    here, there = pipeline(denoise), pipeline(remote(bls))
    text = {"text": np.ones(2)}
    for seed in range(3):
        image = there.generate(1, 7, seed, conditions=text)
        np.testing.assert_array_equal(image, here.generate(1, 7, seed, conditions=text))
    assert NAMES["timestep"] == 7
    monkeypatch.setattr(bls, "_MOST_NUMBERS", 10)
    for steps in (7, 9, 7):
        image = there.generate(1, steps, 0, conditions=text)
        np.testing.assert_array_equal(image, here.generate(1, steps, 0, conditions=text))
    assert NAMES["timestep"] > 7 + 9


def test_a_sample_of_one_number_is_sent_as_it_is(bls):
    """Its values hardly come again; when they do, they are the same."""
    tensors = bls._Tensors(True, frozenset())
    array = np.ones((1, 1, 1, 1), np.float32)
    (first,) = tensors({"sample": array})
    array[:] = 2
    (second,) = tensors({"sample": array})
    assert (first.send().item(), second.send().item()) == (1, 2)


def test_a_loops_conditions_become_a_tensor_once(bls):
    there = pipeline(remote(bls))
    for seed in range(2):
        there.generate(2, 7, seed, conditions={"text": np.ones(2)})
    assert NAMES == {"sample": 14, "timestep": 14, "text": 2, "out": 14}


def test_an_error_of_the_model_names_it(bls):
    call = bls._model_call("denoiser", "out", True)
    rows = {"sample": np.zeros((1, *SHAPE)), "timestep": np.zeros(1)}
    with pytest.raises(UnfitEngine, match="the denoiser model: no number"):
        call({**rows, "text": np.full((1, 2), np.nan)})
