"""Measures latency and throughput through a running Triton server, as its clients see them.

Each of C clients requests one image, waits for it, and requests the next. The latency is the
client's own clock around the request; the throughput counts all images in the window. Percentiles
as in perf_analyzer: the element at ``int(p / 100 * (n - 1) + 0.5)``, no interpolation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from diffc.errors import UnavailableError
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from tritonclient.grpc import InferInput


def measure_server(
    url: str,
    model: str = "pipeline",
    *,
    steps: int = 50,
    conditions: JsonObject | None = None,
    concurrency: Sequence[int] = (1, 4, 16),
    seconds: float = 10.0,
    warm_up: int = 3,
) -> JsonDict:
    """Measure a model of a server, one image a request.

    Args:
        url: The server's gRPC address, host:port.
        model: The model's name.
        steps: The number of steps of each image.
        conditions: The model's conditions by name.
        concurrency: The numbers of clients to measure with.
        seconds: How long each level is measured.
        warm_up: The number of requests before.

    Returns:
        ``model``, ``steps``, ``client`` and ``levels``, one for each concurrency: ``concurrency``,
        ``requests``, ``errors``, ``seconds``, ``throughput_per_s`` (images) and ``latency_ms`` with
        ``p50``, ``p90``, ``p95``, ``p99``, ``mean``, ``n``.

    Raises:
        UnavailableError: The server does not answer, or tritonclient is missing.
    """
    client = _client()
    inputs = image_inputs(client, steps, conditions or {})
    try:
        with client.InferenceServerClient(url) as channel:
            for _ in range(warm_up):
                channel.infer(model, inputs)
    except client.InferenceServerException as error:
        raise UnavailableError(f"the server at {url} does not serve '{model}': {error}") from None
    levels = [_level(client, url, model, inputs, count, seconds) for count in concurrency]
    return {"model": model, "steps": steps, "client": "tritonclient grpc", "levels": levels}


def _client() -> ModuleType:
    try:
        import tritonclient.grpc
    except ImportError as error:
        hint = "pip install 'diffc[triton]'"
        raise UnavailableError(
            f"served figures need tritonclient[grpc] ({error})", hint=hint
        ) from None
    module: ModuleType = tritonclient.grpc
    return module


def image_inputs(client: ModuleType, steps: int, conditions: JsonObject) -> list[InferInput]:
    """Return the inputs of a request for one image.

    Args:
        client: ``tritonclient.grpc``.
        steps: The number of its steps.
        conditions: The model's conditions by name, arrays or what numpy makes arrays of.
    """
    values = {
        "n": np.array([1], np.int32),
        "steps": np.array([steps], np.int32),
        **{name: np.asarray(value) for name, value in conditions.items()},
    }
    tensors = []
    for name, array in values.items():
        tensor = client.InferInput(name, list(array.shape), client.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _level(
    client: ModuleType,
    url: str,
    model: str,
    inputs: list[InferInput],
    concurrency: int,
    seconds: float,
) -> JsonDict:
    """Measure ``concurrency`` clients for ``seconds``."""
    latencies: list[list[float]] = [[] for _ in range(concurrency)]
    errors = [0] * concurrency
    start = time.perf_counter()
    end = start + seconds

    def work(index: int) -> None:
        with client.InferenceServerClient(url) as channel:
            while (sent := time.perf_counter()) < end:
                try:
                    channel.infer(model, inputs)
                    latencies[index].append(time.perf_counter() - sent)
                except client.InferenceServerException:
                    errors[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    every = sorted(second for one in latencies for second in one)
    return {
        "concurrency": concurrency,
        "requests": len(every),
        "errors": sum(errors),
        "seconds": wall,
        "throughput_per_s": len(every) / wall,
        "latency_ms": _summarize(every),
    }


def _summarize(latencies: Sequence[float]) -> dict[str, float] | None:
    """Return percentiles in milliseconds of sorted seconds; None if there were no answers."""
    if not latencies:
        return None
    last = len(latencies) - 1
    percentiles: dict[str, float] = {
        f"p{p}": latencies[int(p / 100 * last + 0.5)] * 1e3 for p in (50, 90, 95, 99)
    }
    mean = sum(latencies) / len(latencies) * 1e3
    return {**percentiles, "mean": mean, "n": len(latencies)}
