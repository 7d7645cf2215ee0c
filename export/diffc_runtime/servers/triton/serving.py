"""A request of the pipeline model -> images, for both ways of running the denoiser.

What a client may send: ``seed``, ``steps``, ``n``, ``first``, ``guidance``, ``scheduler``, and a
tensor for each condition, ``unconditional_NAME`` for guidance. All may be left out but the
conditions. A wrong request is answered with an error that says what is wrong; the model lives on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

DEFAULTS: dict[str, Any] = {"seed": 0, "steps": 50, "n": 1, "first": 0, "guidance": 1.0}


def home(arguments: dict[str, str]) -> Path:
    """The model's version folder, with diffc_runtime/ and the engine; put on the import path."""
    folder = Path(arguments["model_repository"]) / arguments["model_version"]
    sys.path.insert(0, str(folder))
    return folder


def threads(arguments: dict[str, str]) -> int | None:
    """The config's parameter ``threads``, for engines on a processor; None for every core."""
    found = json.loads(arguments["model_config"]).get("parameters", {}).get("threads")
    return int(found["string_value"]) if found else None


def warm_up(pipeline: Any) -> None:
    """One step at each batch size that the engine is best at, so that no request waits for it."""
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in pipeline.conditions}
    for size in {size for both in pipeline.batches for size in both}:
        pipeline.generate(size, 1, 0, conditions=zeros)


def answers(pipeline: Any, requests: list[Any]) -> list[Any]:
    """One response for each request, an error where it was wrong."""
    return [_answer(pipeline, request) for request in requests]


def _answer(pipeline: Any, request: Any) -> Any:
    from diffc_runtime import BadRequest, UnfitEngine

    try:
        samples = pipeline.generate(**_asked(pipeline, request))
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


def _asked(pipeline: Any, request: Any) -> dict[str, Any]:
    """The request's tensors as the arguments of ``Pipeline.generate``."""
    asked = {name: _scalar(request, name, default) for name, default in DEFAULTS.items()}
    asked["scheduler"] = _scalar(request, "scheduler", None)
    asked["conditions"] = _conditions(pipeline, request, "", asked["n"])
    asked["unconditional"] = _conditions(pipeline, request, "unconditional_", asked["n"])
    return asked


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
    """Conditions by name; a single row stands for all ``n`` images."""
    given = {}
    for spec in pipeline.conditions:
        tensor = pb_utils.get_input_tensor_by_name(request, prefix + spec.name)
        if tensor is not None:
            array = tensor.as_numpy()
            given[spec.name] = array[0] if len(array) == 1 and n != 1 else array
    return given
