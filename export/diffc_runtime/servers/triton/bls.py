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
        denoise = _model_call("denoiser", info["outputs"][0]["name"], models["denoiser"]["batched"])
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


def _model_call(model: str, output: str, batched: bool) -> Callable[[dict[str, Any]], Any]:
    """Return a call of another model of this server: inputs by name -> one output."""
    from diffc_runtime import UnfitEngine

    def call(inputs: dict[str, Any]) -> Any:
        # Triton cannot have an input without dimensions: (batch,) travels as (batch, 1)
        tensors = [
            pb_utils.Tensor(name, array[:, None] if batched and array.ndim == 1 else array)
            for name, array in inputs.items()
        ]
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=[output],
            inputs=tensors,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise UnfitEngine(f"the {model} model: {response.error().message()}")
        return pb_utils.get_output_tensor_by_name(response, output).as_numpy()

    return call


TritonPythonModel = RemoteDenoiserModel
"""The name that Triton looks for."""
