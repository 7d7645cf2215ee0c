"""An engine folder, as diffc's targets write it -> a call on numpy arrays.

    engine = open_engine(Path("engine"))
    output = engine.run({"sample": x, "timestep": t})

engine.json says for which runtime, versions and machine the engine was built. One that does not
fit here is refused before anything is loaded, with both sides named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cuda_libraries
from .errors import BadRequest, UnfitEngine
from .fit import check_files, cores, misfit
from .pipeline import Array, Denoise, Input

FORMAT = 1
_KEYS = (
    "target",
    "versions",
    "device",
    "tied_to",
    "built_for",
    "inputs",
    "outputs",
    "profiles",
    "files",
    "source",
    "precision_asked",
    "precision_found",
)


@dataclass(frozen=True)
class Engine:
    """A loaded engine.

    info: engine.json's content. batches: (smallest, largest) for each range of batch sizes that it
    serves, smallest first. run: inputs by name (B, ...) -> its first output (B, ...).
    """

    info: Mapping[str, Any]
    inputs: tuple[Input, ...]
    batches: tuple[tuple[int, int], ...]
    run: Denoise


def read_info(folder: Path) -> dict[str, Any]:
    """engine.json's content. Raises UnfitEngine when there is none that this runtime reads."""
    path = folder / "engine.json"
    try:
        info = json.loads(path.read_text())
    except OSError:
        raise UnfitEngine(f"{folder} is not an engine folder: it has no engine.json") from None
    except ValueError:
        raise UnfitEngine(f"{path} is damaged: it is not JSON") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UnfitEngine(f"{path} is not of format {FORMAT}, the one that this runtime reads")
    missing = [key for key in _KEYS if key not in info]
    if missing:
        raise UnfitEngine(f"{path} is damaged: it has no '{missing[0]}'")
    return info


def open_engine(folder: Path, threads: int | None = None) -> Engine:
    """Load the engine in ``folder``; ``threads`` is for engines on a processor.

    Raises UnfitEngine when it was built for another machine or version, when its runtime is not
    installed or cannot load it, or when a file was cut or altered; BadRequest for threads below 1.
    """
    if threads is not None and threads < 1:
        raise BadRequest(f"threads must be 1 or more, not {threads}")
    info = read_info(folder)
    reason = misfit(info)
    if reason:
        raise UnfitEngine(f"{folder}: {reason}")
    check_files(folder, info)
    with _in_one_line("cannot load the engine"):
        run = _LOADERS[info["target"]](folder, info, threads or cores())
    return Engine(info, specs(info), batches(info), _said_in_one_line(run))


def specs(info: Mapping[str, Any]) -> tuple[Input, ...]:
    """The engine's inputs."""
    return tuple(
        Input(item["name"], tuple(item["shape"]), item["dtype"], item["kind"])
        for item in info["inputs"]
    )


def batches(info: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(smallest, largest) of each range of batch sizes that the engine serves; empty: any.

    An engine of several resolutions is served at the one that its inputs' shapes say.
    ONNX Runtime takes every batch up to the largest, whichever the engine was measured at.
    """
    profiles = (next(iter(p.values())) for p in info["profiles"] if serves(p, info))
    ranges = sorted({(item["min"][0], item["max"][0]) for item in profiles})
    if ranges and info["target"].startswith("ort-"):
        return ((1, max(high for _, high in ranges)),)
    return tuple(ranges)


def serves(profile: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Whether a profile takes the shapes that the engine's inputs have, whatever the batch."""
    shapes = {item["name"]: item["shape"] for item in info.get("inputs", ())}
    return all(
        low <= found <= high
        for name, span in profile.items()
        for low, found, high in zip(
            span["min"][1:], shapes.get(name, ()), span["max"][1:], strict=False
        )
    )


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Turn whatever a runtime raises into UnfitEngine, without the paths of its files."""
    try:
        yield
    except (UnfitEngine, BadRequest):
        raise
    except Exception as error:
        message = " ".join(str(error).split()).rpartition("Status Message: ")[2]
        message = re.sub(r"\S*/\S+\.\w+(:\d+)?", "", message).strip()
        raise UnfitEngine(f"{what}: {message[:300] or type(error).__name__}") from None


def _said_in_one_line(run: Denoise) -> Denoise:
    """``run``, whose errors (a label that is no class, memory that ran out) are one line each."""

    def call(inputs: dict[str, Array]) -> Array:
        with _in_one_line("the engine could not run"):
            return run(inputs)

    return call


# Runtimes -----------------------------------------------------------------------------------------


def _needed(package: str, target: str) -> Any:
    """The runtime's module. Raises UnfitEngine when it is not installed."""
    try:
        return __import__(package)
    except ImportError as error:
        raise UnfitEngine(f"a '{target}' engine needs {package}: {error}") from None


def _ort_cpu(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    return _onnxruntime(folder, info, threads, ["CPUExecutionProvider"])


def _ort_cuda(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    cuda_libraries.preload()
    ort = _needed("onnxruntime", "ort-cuda")
    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        found = ", ".join(ort.get_available_providers())
        raise UnfitEngine(f"built for {provider} (pip install onnxruntime-gpu); here: {found}")
    return _onnxruntime(folder, info, threads, [(provider, {"use_tf32": "0"})])


def _onnxruntime(
    folder: Path, info: Mapping[str, Any], threads: int, providers: list[Any]
) -> Denoise:
    ort = _needed("onnxruntime", str(info["target"]))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and said once
    # ONNX Runtime takes UTF-8, also where the locale (LC_ALL=C) reads names as something else
    path = os.fsencode(folder / "model.onnx").decode("utf-8")
    # without a way back: after an error ONNX Runtime would go on with the processor
    session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    _check_provider(session, providers[0])
    session.disable_fallback()
    names = [info["outputs"][0]["name"]]

    def run(inputs: dict[str, Array]) -> Array:
        output: Array = session.run(names, inputs)[0]
        return output

    return run


def _check_provider(session: Any, asked: Any) -> None:
    """Raise UnfitEngine where the session computes with another provider than the one asked for:
    ONNX Runtime takes the processor, silently, where CUDA's libraries do not load."""
    wanted = asked if isinstance(asked, str) else asked[0]
    used = list(session.get_providers())
    if used[:1] != [wanted]:
        raise UnfitEngine(
            f"ONNX Runtime cannot load its {wanted} (CUDA and cuDNN are missing or of another"
            f" version), and would compute with {', '.join(used) or 'nothing'}"
        )


def _openvino(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Compiled with static shapes for each batch size when it first comes by, as diffc measures."""
    openvino = _needed("openvino", "openvino")
    core, name = openvino.Core(), info["outputs"][0]["name"]
    # what it was measured with: without them OpenVINO picks bf16 by itself where it is fast
    settings = {**info["details"]["settings"], "INFERENCE_NUM_THREADS": threads}
    requests: dict[int, Any] = {}

    def run(inputs: dict[str, Array]) -> Array:
        batch = len(next(iter(inputs.values())))
        if batch not in requests:
            graph = core.read_model(folder / "model.xml")
            graph.reshape({key: list(array.shape) for key, array in inputs.items()})
            requests[batch] = core.compile_model(graph, "CPU", settings).create_infer_request()
        output: Array = requests[batch].infer(inputs)[name]
        return output

    return run


def _tensorrt(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    return _tensorrt_engine(folder, info, _needed("tensorrt", "trt"))


def _tensorrt_rtx(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    return _tensorrt_engine(folder, info, _needed("tensorrt_rtx", "trt-rtx"))


def _tensorrt_engine(folder: Path, info: Mapping[str, Any], trt: Any) -> Denoise:
    """One execution context per optimisation profile, device buffers for the largest batch."""
    from .trt import TensorRtEngine

    return TensorRtEngine(trt, _engine_file(folder, info).read_bytes(), info)


def _engine_file(folder: Path, info: Mapping[str, Any]) -> Path:
    """The serialised engine."""
    files = sorted(str(name) for name in info["files"] if name.endswith((".plan", ".engine")))
    if not files:
        raise UnfitEngine(f"{folder} holds no engine file (.plan, .engine)")
    return folder / files[0]


_LOADERS: dict[str, Callable[[Path, Mapping[str, Any], int], Denoise]] = {
    "ort-cpu": _ort_cpu,
    "ort-cuda": _ort_cuda,
    "openvino": _openvino,
    "trt": _tensorrt,
    "trt-rtx": _tensorrt_rtx,
}
