"""OpenVINO: models compiled with static shapes, and its errors in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DiffcError, InputError, UnavailableError
from ..machine.out_of_memory import out_of_memory

FILE = "model.xml"
Shapes = Mapping[str, tuple[int, ...]]
"""The inputs' shapes by name, batch first."""


class StaticModels:
    """An IR file, compiled for each set of input shapes when it is first used.

    Static shapes are a fifth faster than one dynamic model (measured).

    Args:
        path: The IR file.
        settings: The properties that it is compiled with. Without a precision among them OpenVINO
            picks bf16 by itself where the processor has it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._models: dict[tuple[tuple[str, tuple[int, ...]], ...], Any] = {}
        self._requests: dict[tuple[tuple[str, tuple[int, ...]], ...], Any] = {}

    def model(self, shapes: Shapes) -> Any:
        """Return the compiled model for ``shapes``. Raises InputError if it cannot be compiled."""
        import openvino

        key = tuple(sorted(shapes.items()))
        if key not in self._models:
            with failures_named(f"reading {self._path}"):
                graph = openvino.Core().read_model(self._path)
                graph.reshape({name: list(shape) for name, shape in shapes.items()})
            self._models[key] = compile_model(graph, self._settings)
        return self._models[key]

    def request(self, shapes: Shapes) -> Any:
        """Return the request for calls with ``shapes``, the same one at every call."""
        key = tuple(sorted(shapes.items()))
        if key not in self._requests:
            self._requests[key] = self.model(shapes).create_infer_request()
        return self._requests[key]

    def close(self) -> None:
        """Free the compiled models."""
        self._requests.clear()
        self._models.clear()


def compile_model(graph: Any, settings: Mapping[str, Any]) -> Any:
    """Compile a graph for the processor. Raises InputError with OpenVINO's reason."""
    import openvino

    try:
        with out_of_memory("compiling the model", on_gpu=False):
            return openvino.Core().compile_model(graph, "CPU", dict(settings))
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot compile the model: {reason(error)}") from None


@contextmanager
def failures_named(doing: str) -> Iterator[None]:
    """Turn whatever OpenVINO raises inside the block into an error of ours.

    Raises:
        OutOfMemory: It says that memory ran out.
        UnavailableError: It raised anything else.
    """
    try:
        with out_of_memory(doing, on_gpu=False):
            yield
    except DiffcError:
        raise
    except RuntimeError as error:
        raise UnavailableError(f"OpenVINO failed while {doing}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Return the summary of OpenVINO's message where it has one, without source paths."""
    text = str(error).partition("Summary:")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(words or lines)[:400]
