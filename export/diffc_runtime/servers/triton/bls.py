"""The ``pipeline_bls`` model: the loop runs here, every step is a request to the denoiser model.

Needs numpy alone in the server's Python, and tokenizers for prompts. As the steps of several
requests reach the denoiser at once, its dynamic batching can run them together; for one client
alone, ``pipeline`` is quicker.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import serving
import triton_python_backend_utils as pb_utils

_MOST_NUMBERS = 1000
"""Tensors of single numbers that are kept: as many as a schedule has timesteps, as a rule."""


class RemoteDenoiserModel:
    """Loaded once for each instance."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Read the bundle's files; the denoiser model loads the engine."""
        folder = serving.version_folder(arguments)
        from diffc_runtime.bundles import (
            batched_decoder,
            pipeline_of,
            read_bundle,
            text_engines,
        )
        from diffc_runtime.prompt_plan import TEXT_FOLDER
        from diffc_runtime.prompts import open_prompts

        settings, info = read_bundle(folder)
        models = settings["models"]
        decoder = settings.get("decoder")
        denoise = _model_call(
            "denoiser",
            info["outputs"][0]["name"],
            models["denoiser"]["batched"],
            frozenset(item["name"] for item in info["inputs"] if item["kind"] == "condition"),
        )
        decode = None
        if decoder:
            ask = _model_call("decoder", decoder["output"], models["decoder"]["batched"])
            decode = batched_decoder(
                ask, decoder["input"], decoder["dtype"], decoder["batches"], decoder.get("shape")
            )
        self.pipeline = pipeline_of(settings, _of_one_size(info), denoise, decode)
        if settings["image_size"]:
            self.pipeline.image_size = tuple(settings["image_size"])
        self.pipeline.prompts = open_prompts(
            folder / TEXT_FOLDER, text_engines(folder), open_one=partial(_remote_engine, models)
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request."""
        return [serving.images_of(self.pipeline, request)() for request in requests]


def _of_one_size(info: Any) -> Any:
    """Return engine.json with the usual size alone, which the denoiser's model is declared with."""
    return {**info, "inputs": [{**item, "sizes": []} for item in info["inputs"]]}


def _remote_engine(models: dict[str, Any], folder: Path) -> Any:
    """Return the engine of a folder's engine.json, which runs as the model of the folder's name."""
    from diffc_runtime.engines import Engine, batches, read_info, specs

    info = read_info(folder)
    output, batched = info["outputs"][0]["name"], models[folder.name]["batched"]
    return Engine(info, specs(info), batches(info), _model_call(folder.name, output, batched))


def _model_call(
    model: str, output: str, batched: bool, constant: frozenset[str] = frozenset()
) -> Callable[[dict[str, Any]], Any]:
    """Return a call of another model of this server: inputs by name -> one output.

    Args:
        model: The model's name.
        output: The output's name.
        batched: Whether the server batches the model.
        constant: The inputs whose arrays keep their values as long as they are given again.
    """
    from diffc_runtime import UnfitEngine

    tensors = _Tensors(batched, constant)
    memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    def call(inputs: dict[str, Any]) -> Any:
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=[output],
            inputs=tensors(inputs),
            preferred_memory=memory,
        )
        response = request.exec()
        if response.has_error():
            raise UnfitEngine(f"the {model} model: {response.error().message()}")
        return pb_utils.get_output_tensor_by_name(response, output).as_numpy()

    return call


class _Tensors:
    """A request's tensors.

    A tensor is copied to the memory that the server sees when it is first sent, and no more: what
    is constant in a loop is made and copied once, at the loop's first step, and a timestep once for
    all loops.
    """

    def __init__(self, batched: bool, constant: frozenset[str]) -> None:
        self._batched, self._constant = batched, constant
        self._last: dict[str, tuple[Any, Any]] = {}
        self._numbers: dict[tuple[str, str, bytes], Any] = {}

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        return [self._tensor(name, array) for name, array in inputs.items()]

    def _tensor(self, name: str, array: Any) -> Any:
        if name not in self._constant:
            return self._number(name, array) if array.size == 1 else self._new(name, array)
        last, tensor = self._last.get(name, (None, None))
        if array is not last:
            tensor = self._new(name, array)
            self._last[name] = array, tensor
        return tensor

    def _number(self, name: str, array: Any) -> Any:
        """Return the tensor of a single number, which loops give again: the timestep."""
        key = name, array.dtype.str, array.tobytes()
        tensor = self._numbers.get(key)
        if tensor is None:
            if len(self._numbers) == _MOST_NUMBERS:
                self._numbers.clear()
            # The caller may change its array, and the server's copy is made later
            tensor = self._numbers[key] = self._new(name, array.copy())
        return tensor

    def _new(self, name: str, array: Any) -> Any:
        # Triton cannot have an input without dimensions: (batch,) travels as (batch, 1)
        shaped = array[:, None] if self._batched and array.ndim == 1 else array
        return pb_utils.Tensor(name, shaped)


TritonPythonModel = RemoteDenoiserModel
"""The name that Triton looks for."""
