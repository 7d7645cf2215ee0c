"""An engine folder, as diffc's targets write it -> a call on numpy arrays.

    engine = open_engine(Path("engine"))
    output = engine.run({"sample": x, "timestep": t})

engine.json says for which runtime, versions and machine the engine was built. One that does not
fit here is refused before anything is loaded, with both sides named.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import UnfitEngine
from .pipeline import Array, Denoise, Input

FORMAT = 1


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
    return info


def open_engine(folder: Path, threads: int | None = None) -> Engine:
    """Load the engine in ``folder``; ``threads`` is for engines on a processor.

    Raises UnfitEngine when it was built for another machine or version, when its runtime is not
    installed, or when a file was cut or altered.
    """
    info = read_info(folder)
    reason = misfit(info)
    if reason:
        raise UnfitEngine(f"{folder}: {reason}")
    check_files(folder, info)
    run = _LOADERS[info["target"]](folder, info, threads or cores())
    return Engine(info, specs(info), batches(info), run)


def specs(info: Mapping[str, Any]) -> tuple[Input, ...]:
    """The engine's inputs."""
    return tuple(
        Input(item["name"], tuple(item["shape"]), item["dtype"], item["kind"])
        for item in info["inputs"]
    )


def batches(info: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(smallest, largest) of each range of batch sizes that the engine serves; empty: any."""
    ranges = (next(iter(profile.values())) for profile in info["profiles"])
    return tuple(sorted((item["min"][0], item["max"][0]) for item in ranges))


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Does it fit? -------------------------------------------------------------------------------------


def misfit(info: Mapping[str, Any]) -> str | None:
    """Why the engine cannot run here: what it was built for, and what is here; None when it can."""
    if info["target"] not in _LOADERS:
        known = ", ".join(_LOADERS)
        return f"built for target '{info['target']}', which this runtime does not run ({known})"
    there = {**info["device"], **info["versions"]}
    tied = list(info["tied_to"])
    found = here(tied)
    if any(there.get(key) != found.get(key) for key in tied):
        built = ", ".join(f"{key} {there.get(key, 'none')}" for key in tied)
        now = ", ".join(f"{key} {found.get(key) or 'none'}" for key in tied)
        return f"built for {built}; here: {now}"
    capability = here(["compute_capability"]).get("compute_capability")
    if info["built_for"] and not any(_serves(sm, capability) for sm in info["built_for"]):
        return f"built for {', '.join(info['built_for'])}; here: {_sm(capability)}"
    return None


def _sm(capability: str | None) -> str:
    return f"sm{capability.replace('.', '')}" if capability else "no NVIDIA GPU"


def _serves(built: str, capability: str | None) -> bool:
    """Whether an engine for ``built`` ("sm86", or "sm80+" for it and later) runs on this GPU."""
    if capability is None:
        return False
    least = int(built.removeprefix("sm").rstrip("+"))
    found = int(capability.replace(".", ""))
    return found >= least if built.endswith("+") else found == least


def here(keys: list[str]) -> dict[str, str | None]:
    """What this machine has for each key: a device's property, else a package's version."""
    found: dict[str, str | None] = {}
    device: Mapping[str, str] | None = None
    for key in keys:
        if key in _DEVICE_KEYS:
            device = _device() if device is None else device
            found[key] = device.get(key)
        else:
            found[key] = _version(key)
    return found


_DEVICE_KEYS = ("machine", "cpu", "cpu_model", "simd", "gpu", "compute_capability", "driver")


_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


def _version(package: str) -> str | None:
    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _device() -> dict[str, str]:
    return {"machine": platform.machine(), **_cpu(), **_gpu()}


def _cpu() -> dict[str, str]:
    """The same properties, in the same words, as diffc writes at the build."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        text = ""
    lines = (line.partition(":") for line in text.splitlines())
    info = {key.strip(): value.strip() for key, _, value in lines}
    flags = sorted((info.get("flags") or info.get("Features") or "").split())
    model = " ".join(info.get(key, "") for key in ("vendor_id", "cpu family", "model")).strip()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_model": model,
        "simd": " ".join(f for f in flags if f.startswith(("avx", "amx", "sve", "asimd"))),
    }


def _gpu() -> dict[str, str]:
    """The first NVIDIA GPU; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    fields = [field.strip() for field in done.stdout.splitlines()[0].split(",")]
    return dict(zip(("gpu", "compute_capability", "driver"), fields, strict=False))


def check_files(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UnfitEngine naming the first file that is missing or is not what was written."""
    for name, expected in info["files"].items():
        path = folder / name
        if not path.is_file():
            raise UnfitEngine(f"{path} is missing")
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
        if digest.hexdigest() != expected:
            raise UnfitEngine(f"{path} was cut or altered since it was built")


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
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=providers)
    names = [info["outputs"][0]["name"]]

    def run(inputs: dict[str, Array]) -> Array:
        output: Array = session.run(names, inputs)[0]
        return output

    return run


def _openvino(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Compiled with static shapes for each batch size when it first comes by, as diffc measures."""
    openvino = _needed("openvino", "openvino")
    core, name = openvino.Core(), info["outputs"][0]["name"]
    hints = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
    settings = {
        "INFERENCE_PRECISION_HINT": hints[info["precision_asked"]],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
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
