"""What ort-cpu and ort-cuda share: sessions, the border to ONNX Runtime's own errors, and the
precision that a session computes in.

The engine of both is the ONNX file itself, copied: it loads with any version of ONNX Runtime. The
build opens it once, and reads back from the graph as optimised which precision each convolution and
matrix product really computes in, for ONNX Runtime casts silently where a kernel is missing.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffc_export.disks import temporary_folder, utf8_path
from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes
from diffc_export.targets.base import BuildOptions, TritonBackend
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_export.targets.onnx_precision import NAMES, shares
from diffc_runtime import machine
from diffc_runtime.errors import DiffcError, InputError, UnavailableError
from diffc_runtime.machine.out_of_memory import out_of_memory

FILE = "model.onnx"
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_LIBRARIES_HINT = (
    "its libraries (CUDA, cuDNN) are missing or of another version: pip install "
    "'onnxruntime-gpu[cuda,cudnn]'"
)
_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def triton_backend() -> TritonBackend:
    """Triton's backend for an ONNX file, on the processor and on a GPU."""
    return TritonBackend(platform="onnxruntime_onnx", file=FILE, any_batch=True)


def package() -> tuple[str, str] | None:
    """(distribution, version) of the onnxruntime that an import gives; None where there is none.

    Both distributions are one Python package. Where both are installed, the one that is imported
    is what the package's own files say, not what either one's metadata says.
    """
    installed = machine.packages.first_version(*PACKAGES)
    if not all(machine.packages.version(name) for name in PACKAGES):
        return installed
    return _said_by_its_files() or installed


def _said_by_its_files() -> tuple[str, str] | None:
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except ValueError:  # a module without a spec is imported already
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "capi" / "build_and_package_info.py"
    try:
        facts = dict(_FACT.findall(file.read_text("utf-8")))
    except OSError:
        return None
    name, number = facts.get("package_name"), facts.get("__version__")
    return (name, number) if name in PACKAGES and number else None


_FACT = re.compile(r"""^(package_name|__version__)\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)


def onnxruntime(target: str, extra: str) -> Any:
    """The module. Raises UnavailableError with the extra to install when it is missing."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        if machine.packages.first_version(*PACKAGES):
            raise UnavailableError(f"onnxruntime is installed but cannot load: {error}") from None
        hint = f"pip install 'diffc[{extra}]'"
        raise UnavailableError(f"target '{target}' needs onnxruntime", hint=hint) from None
    ort.set_default_logger_severity(3)
    return ort


def build(
    target: str,
    folder: Path,
    options: BuildOptions,
    out: Path,
    providers: list[Any],
    facts: Mapping[str, Any],
) -> Work[engine.EngineInfo]:
    """Check that the file loads, read its precision back, and copy it into ``out``.

    facts: the fields of EngineInfo that only the target knows (versions, device, tied_to).
    """
    machine.cpu.check_threads(options.threads)
    yield Progress(0, 3, "reading the ONNX file")
    model = read_onnx(folder)
    asked = engine.asked_precision(model, options.precision)
    served = shapes.profiles(model, options)
    start = time.perf_counter()
    yield Progress(1, 3, "optimising the graph")
    found = weight_elements(model.path, providers)
    held, strict = shares(found), engine.is_promised(model, options.precision)
    name = f"{target}, {model.path}"
    precision = engine.check_precision(asked, held, model, name, strict=strict)
    with engine.new_engine_folder(out) as new:
        yield Progress(2, 3, "writing the engine")
        _copy(model, new)
        info = engine.EngineInfo(
            target=target,
            inputs=model.inputs,
            outputs=model.outputs,
            precision_asked=asked,
            precision_found=precision,
            precision_shares=held,
            profiles=tuple(served),
            threads=options.threads,
            build_seconds=time.perf_counter() - start,
            source=model.content,
            details={"heavy_layers": len(found)},
            **facts,
        )
        return engine.write_info(new, info)


def _copy(model: OnnxModel, new: Path) -> None:
    """The graph becomes model.onnx; external data keep the path that the graph names."""
    shutil.copyfile(model.path, new / FILE)
    for file in model.files[1:]:
        stored = new / file.relative_to(model.path.parent)
        stored.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, stored)


def session_options(threads: int) -> Any:
    """Every optimisation, a fixed number of threads, none of them spinning between runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OrtFailed(UnavailableError):
    """ONNX Runtime could not do a call here. reason: its own words, in one line."""

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(f"ONNX Runtime failed while {doing}: {reason}")
        self.reason = reason


def is_own(error: Exception) -> bool:
    """Whether ONNX Runtime raised it: its classes derive from Exception alone and are private to
    the extension module, and what its C++ code throws besides is a plain RuntimeError."""
    return type(error).__module__.startswith("onnxruntime") or type(error) is RuntimeError


def reason(error: Exception) -> str:
    """What one of ONNX Runtime's errors says, in one line, without its status."""
    return _STATUS.sub("", " ".join(str(error).split()))[:400] or type(error).__name__


@contextmanager
def failures_named(doing: str, on_gpu: bool) -> Iterator[None]:
    """The border to ONNX Runtime: whatever it raises inside the block is an error of ours after it.

    Raises:
        OutOfMemory: where it says that memory ran out.
        OrtFailed: for everything else that is its own.
    """
    try:
        with out_of_memory(doing, on_gpu):
            yield
    except DiffcError:
        raise
    except Exception as error:
        if not is_own(error):
            raise
        raise OrtFailed(doing, reason(error)) from None


def open_session(path: Path, options: Any, providers: list[Any]) -> Any:
    """An InferenceSession on the first of ``providers``, and on no other in its place.

    Raises InputError with ONNX Runtime's own reason, one line of it; OutOfMemory; UnavailableError
    when the provider's libraries do not load: ONNX Runtime then takes the processor, silently.
    """
    import onnxruntime as ort

    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    on_gpu = wanted != "CPUExecutionProvider"
    try:
        with failures_named(f"opening {path}", on_gpu):
            # else it goes on with other providers after an error, and prints so to stdout
            session = ort.InferenceSession(
                utf8_path(path), options, providers=providers, enable_fallback=0
            )
    except OrtFailed as error:
        raise InputError(f"ONNX Runtime refuses {path}: {error.reason}") from None
    used = list(session.get_providers())
    if used[:1] != [wanted]:
        instead = ", ".join(used) or "nothing"
        message = f"ONNX Runtime cannot load its {wanted}, and would compute with {instead}"
        raise UnavailableError(message, hint=_LIBRARIES_HINT)
    session.disable_fallback()  # the same after an error of a call
    return session


def weight_elements(file: Path, providers: list[Any]) -> list[tuple[str, int]]:
    """(precision, weight elements) of each heavy layer in the graph as ONNX Runtime optimised it.

    The graph is written with its weights outside, so that only its structure is parsed.
    """
    import onnx

    weights = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
    with temporary_folder(weights) as temporary:
        path = temporary / "optimised.onnx"
        options = session_options(1)
        options.optimized_model_filepath = utf8_path(path)
        key = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(key + "file_name", "weights.bin")
        options.add_session_config_entry(key + "min_size_in_bytes", "1024")
        open_session(file, options, providers)
        return list(_heavy(onnx.load(path, load_external_data=False).graph))


_FLOAT = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "FusedGemm"}
_INT8 = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "MatMulInteger": 1,
    "ConvInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
}


def _heavy(graph: Any) -> Iterator[tuple[str, int]]:
    """The convolutions and products whose weights are constants, with what they compute in."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = {n.output[0]: n for n in graph.node if n.op_type in ("Cast", "DequantizeLinear")}
    for node in graph.node:
        if node.op_type in _INT8:
            tensor = weights.get(node.input[_INT8[node.op_type]])
            if tensor is not None:
                yield "int8", _size(tensor)
        elif node.op_type in _FLOAT or node.op_type.startswith("NhwcFusedConv"):
            yield from _float_weight(node, weights, makers)


def _float_weight(
    node: Any, weights: Mapping[str, Any], makers: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """A float layer's precision: its weight's, or what that is cast or dequantised to before."""
    for name in node.input[:2]:
        maker = makers.get(name)
        tensor = weights.get(maker.input[0] if maker is not None else name)
        if tensor is None:
            continue
        kind = tensor.data_type
        if maker is not None and maker.op_type == "Cast":
            kind = next(a.i for a in maker.attribute if a.name == "to")
        elif maker is not None:
            kind = weights[maker.input[1]].data_type  # the scale's
        yield NAMES.get(kind, str(kind)), _size(tensor)


def _size(tensor: Any) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size
