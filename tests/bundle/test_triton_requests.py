"""Requests to the pipeline model without a server: each gets an answer of one line.

test_triton_prompts.py asks a real server.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import diffc_runtime
from diffc_runtime import Input, Pipeline
from diffc_runtime.prompt_plan import PromptPlan

SERVING = Path(diffc_runtime.__file__).parent / "servers" / "triton" / "serving.py"


@dataclass
class Tensor:
    """As Triton's: a name and an array."""

    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


class TritonError(Exception):
    """As Triton's: a message and a code."""

    INVALID_ARG, INTERNAL = 3, 13

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Response:
    """As Triton's: tensors, or an error."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


@dataclass
class Request:
    """What a client sends, by name."""

    given: dict[str, np.ndarray]

    def requested_output_names(self) -> list[str]:
        return ["images", "notes"]


@pytest.fixture
def serving(monkeypatch) -> Any:
    """The model's file, as the server's Python imports it, around a stand-in for its library."""

    def tensor(request: Request, name: str) -> Tensor | None:
        return Tensor(name, request.given[name]) if name in request.given else None

    library = ModuleType("triton_python_backend_utils")
    vars(library).update(
        get_input_tensor_by_name=tensor, Tensor=Tensor, TritonError=TritonError,
        InferenceResponse=Response, Logger=SimpleNamespace(log_warn=print),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, library.__name__, library)
    spec = importlib.util.spec_from_file_location("serving_without_a_server", SERVING)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Texts:
    """Text encoders that give the length of a text."""

    plan = PromptPlan({}, {"text": []})
    fixed: ClassVar[dict[str, np.ndarray]] = {}
    fixed_null: ClassVar[dict[str, np.ndarray]] = {}

    def encode(self, prompts, *, negative=False):
        return {"text": np.array([[len(one)] for one in prompts], np.float32)}

    def none(self, n):
        return self.encode([""] * n)


def pipeline() -> Pipeline:
    """Images are as bright as their prompts are long."""
    inputs = [
        Input("sample", (1, 4, 4), kind="sample"),
        Input("timestep", (), "int64", "timestep"),
        Input("text", (1,), "float32"),
    ]
    return Pipeline(
        lambda given: given["sample"] * 0 - given["text"].reshape(-1, 1, 1, 1) / 10,
        {"_class_name": "DDIMScheduler", "clip_sample": False}, (1, 4, 4), inputs=inputs,
        prompts=Texts(),
    )  # type: ignore[arg-type]  # fmt: skip


def texts(*values: str | bytes) -> np.ndarray:
    """As a request has texts: bytes."""
    given = [value if isinstance(value, bytes) else value.encode() for value in values]
    return np.array(given, np.object_).reshape(1, -1)


def ask(serving: Any, **given: np.ndarray) -> Response:
    response: Response = serving.images_of(pipeline(), Request(given))()
    return response


def test_prompts_of_any_script_are_answered(serving):
    for prompt in ("", "a cat", "x" * 10_000, "🙂🐱", "красный 赤い"):
        response = ask(serving, prompt=texts(prompt), steps=np.array([2], np.int32))
        assert response.error is None
        assert response.output_tensors[0].array.shape == (1, 4, 4, 1)
    both = ask(serving, prompt=texts("a", "a cat"), steps=np.array([2], np.int32))
    assert both.output_tensors[0].array.shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "there is no prompt: give one, or text in its place"),
        ({"prompt": texts()}, "prompt is an empty list"),
        ({"prompt": texts(b"\xff")}, "prompt is no text in UTF-8"),
        ({"prompt": texts("a"), "scheduler": texts(b"\xff")}, "scheduler is no text in UTF-8"),
        ({"prompt": texts("a"), "lora": texts(b"\xc3")}, "lora is no text in UTF-8"),
        ({"prompt": texts("a", "b"), "negative_prompt": texts("c", "d", "e")}, "has 3 texts"),
        ({"negative_prompt": texts("a")}, "negative_prompt needs a prompt"),
        ({"prompt": texts("a"), "height": np.array([8])}, "not built for 8"),
        ({"prompt": texts("a"), "steps": np.array([1, 2])}, "'steps' must hold one value, not 2"),
        ({"prompt": texts("a"), "guidance": np.array([np.nan])}, "guidance must be 0 to 100"),
        ({"text": np.full((1, 1), np.nan)}, "condition 'text' has values that are not finite"),
    ],
)
def test_a_wrong_request_gets_one_line(serving, given, says):
    error = ask(serving, **given).error
    assert error is not None and error.code == TritonError.INVALID_ARG
    assert says in str(error) and "\n" not in str(error)
