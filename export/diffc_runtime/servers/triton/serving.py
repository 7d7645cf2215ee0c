"""Answers a request to the pipeline model, for both ways of running the denoiser.

What a client may send: ``seed``, ``steps``, ``n``, ``first``, ``guidance``, ``scheduler``, and a
tensor for each condition, ``unconditional_NAME`` for guidance. All but the conditions are optional;
steps and guidance are by default those of pipeline.json.
The answer to a wrong request is an error that says what is wrong; the model keeps running.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

DEFAULTS: dict[str, Any] = {"seed": 0, "n": 1, "first": 0}


def version_folder(arguments: dict[str, str]) -> Path:
    """Return the folder with diffc_runtime/ and the engine, and add it to the import path."""
    folder = Path(arguments["model_repository"]) / arguments["model_version"]
    sys.path.insert(0, str(folder))
    return folder


def threads(arguments: dict[str, str]) -> int | None:
    """Return the config's parameter ``threads``, for engines on a processor; None for all cores."""
    entry = json.loads(arguments["model_config"]).get("parameters", {}).get("threads")
    return int(entry["string_value"]) if entry else None


def warm_up(pipeline: Any) -> None:
    """Run one step at the ends of each range of batch sizes, so that no request waits for it."""
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in pipeline.conditions}
    for size in {size for both in pipeline.batches for size in both}:
        pipeline.generate(size, 1, 0, conditions=zeros)


def responses(pipeline: Any, requests: list[Any]) -> list[Any]:
    """Return one response for each request, an error for a wrong one."""
    return [_answer(pipeline, request) for request in requests]


def _answer(pipeline: Any, request: Any) -> Any:
    from diffc_runtime import BadRequest, UnfitEngine

    try:
        samples = pipeline.generate(**_generate_arguments(pipeline, request))
    except BadRequest as error:
        return _error(error, pb_utils.TritonError.INVALID_ARG)
    except UnfitEngine as error:
        return _error(error, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(output_tensors=_outputs(samples, request))


def _error(error: Exception, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def _outputs(samples: np.ndarray, request: Any) -> list[Any]:
    from diffc_runtime import to_uint8

    wanted = request.requested_output_names()
    return [
        pb_utils.Tensor(name, to_uint8(samples) if name == "images" else samples) for name in wanted
    ]


def _generate_arguments(pipeline: Any, request: Any) -> dict[str, Any]:
    """Return the request's tensors as the arguments of ``Pipeline.generate``."""
    arguments = {name: _scalar(request, name, default) for name, default in DEFAULTS.items()}
    usual = {"steps": pipeline.defaults.steps, "guidance": pipeline.defaults.guidance}
    arguments |= {name: _scalar(request, name, default) for name, default in usual.items()}
    arguments["scheduler"] = _scalar(request, "scheduler", None)
    arguments["conditions"] = _conditions(pipeline, request, "", arguments["n"])
    arguments["unconditional"] = _conditions(pipeline, request, "unconditional_", arguments["n"])
    return arguments


def _scalar(request: Any, name: str, default: Any) -> Any:
    from diffc_runtime import BadRequest

    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise BadRequest(f"'{name}' must hold one value, not {len(values)}")
    value = values[0]
    return value.decode() if isinstance(value, bytes) else value.item()


def _conditions(pipeline: Any, request: Any, prefix: str, n: int) -> dict[str, np.ndarray]:
    """Return the conditions by name; a single row is used for all ``n`` images."""
    given = {}
    for spec in pipeline.conditions:
        tensor = pb_utils.get_input_tensor_by_name(request, prefix + spec.name)
        if tensor is not None:
            array = tensor.as_numpy()
            given[spec.name] = array[0] if len(array) == 1 and n != 1 else array
    return given
