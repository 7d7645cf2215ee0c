"""Answers a request to the pipeline model, for both ways of running the denoiser.

What a client may send: ``seed``, ``steps``, ``n``, ``first``, ``guidance``, ``scheduler``,
``height``, ``width``, ``lora``, ``prompt`` and ``negative_prompt`` where the model has text
encoders, and a tensor for each condition, ``unconditional_NAME`` for guidance. A condition whose
name is one of these is ``condition_NAME``. All are optional but what a model without text encoders
is conditioned on; steps and guidance are by default those of pipeline.json. Where the network has
an input for the scale of guidance, as FLUX has, ``guidance`` of a request with prompts goes there.
The answer to a wrong request is an error that says what is wrong; the model keeps running.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

NOTES = "notes"
"""The output of texts: what a client should know of its images, such as a prompt that was cut."""


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
    """Run one step at the ends of each range of batch sizes, so that no request waits for it.

    Text encoders that cannot be opened leave a line in the server's log: requests with a prompt get
    the same line, others their images.
    """
    from diffc_runtime import UnfitEngine
    from diffc_runtime.calls import ImageRequest

    if pipeline.prompts is not None:
        try:
            pipeline.prompts.encode([""])
        except UnfitEngine as error:
            pb_utils.Logger.log_warn(f"no prompt can be answered: {error}")
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in pipeline.conditions}
    for count in {count for both in pipeline.batches for count in both}:
        for size in pipeline.image_sizes or (None,):
            pipeline.run(ImageRequest(count, 0, 0, 1.0, zeros, {}, size=size), 1)


def images_of(pipeline: Any, request: Any) -> Callable[[], Any]:
    """Read a request, encode its prompts, and return what makes its images and the response.

    What is returned may run in another thread, and when the server has the request no more.

    Args:
        pipeline: Makes images of the sizes that its ``image_sizes`` names.
        request: The server's.
    """
    try:
        with _errors_of_requests(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            pipe = pipeline.with_lora(_scalar(request, "lora", None))
            wanted = _image_request(pipe, request)
            steps = _scalar(request, "steps", pipe.defaults.steps)
            make = partial(pipe.run, wanted, steps, _scalar(request, "scheduler", None))
    except _RequestError as error:
        return partial(_error, error)
    notes = [str(one.message) for one in caught if one.category is UserWarning]
    return partial(_respond, make, notes, list(request.requested_output_names()))


def _respond(make: Callable[[], np.ndarray], notes: list[str], names: list[str]) -> Any:
    try:
        with _errors_of_requests():
            samples = make()
    except _RequestError as error:
        return _error(error)
    return pb_utils.InferenceResponse(output_tensors=_outputs(samples, notes, names))


class _RequestError(Exception):
    """What a response says in the place of images.

    Args:
        message: What it says.
        code: Triton's code for it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def _errors_of_requests() -> Iterator[None]:
    from diffc_runtime import BadRequest, UnfitEngine

    try:
        yield
    except BadRequest as error:
        raise _RequestError(str(error), pb_utils.TritonError.INVALID_ARG) from None
    except UnfitEngine as error:
        raise _RequestError(str(error), pb_utils.TritonError.INTERNAL) from None


def _error(error: _RequestError) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), error.code))


def _outputs(samples: np.ndarray, notes: list[str], names: list[str]) -> list[Any]:
    from diffc_runtime import to_uint8

    values: dict[str, Callable[[], np.ndarray]] = {
        "images": lambda: to_uint8(samples),
        "samples": lambda: samples,
        NOTES: lambda: np.array([note.encode() for note in dict.fromkeys(notes)], np.object_),
    }
    return [pb_utils.Tensor(name, values[name]()) for name in names]


def _image_request(pipeline: Any, request: Any) -> Any:
    """Return what the request's tensors ask for, as ``Pipeline.run`` takes it."""
    from diffc_runtime.calls import image_request

    prompt = _texts(request, "prompt")
    more = _conditions(pipeline, request)
    more |= {name: _scalar(request, name, None) for name in ("n", "height", "width")}
    more["seed"] = _scalar(request, "seed", 0)
    if prompt is None and more["n"] is None:
        more["n"] = 1
    scale = _scalar(request, "guidance", None)
    wanted = image_request(pipeline, prompt, _texts(request, "negative_prompt"), scale, more)
    return replace(wanted, first=_scalar(request, "first", 0))


def _texts(request: Any, name: str) -> str | list[str] | None:
    """Return a text, or several; None where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    texts = [_text(name, value) for value in tensor.as_numpy().reshape(-1)]
    return texts[0] if len(texts) == 1 else texts


def _text(name: str, value: bytes) -> str:
    from diffc_runtime import BadRequest

    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is no text in UTF-8: {error}") from None


def _scalar(request: Any, name: str, default: Any) -> Any:
    from diffc_runtime import BadRequest

    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise BadRequest(f"'{name}' must hold one value, not {len(values)}")
    value = values[0]
    return _text(name, value) if isinstance(value, bytes) else value.item()


def _conditions(pipeline: Any, request: Any) -> dict[str, Any]:
    """Return the conditions, and their values for "none", by name; one row is for all images."""
    from diffc_runtime.calls import served_name

    given: dict[str, Any] = {}
    for spec in pipeline.conditions:
        none = f"unconditional_{spec.name}"
        for name, tensor_name in ((spec.name, served_name(spec.name)), (none, none)):
            tensor = pb_utils.get_input_tensor_by_name(request, tensor_name)
            if tensor is not None:
                array = tensor.as_numpy().copy()  # the request's memory goes with the request
                given[name] = array[0] if len(array) == 1 else array
    return given
