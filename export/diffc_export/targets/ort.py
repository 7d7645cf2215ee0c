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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes
from diffc_export.targets.base import BuildOptions, TritonBackend
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_export.targets.onnx_precision import NAMES, shares
from diffc_runtime import machine
from diffc_runtime.errors import UnavailableError
from diffc_runtime.files import utf8_path
from diffc_runtime.libraries.ort import FILE, Provider, open_session, session_options

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


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
    providers: Sequence[Provider],
    facts: Mapping[str, Any],
) -> Work[engine.EngineInfo]:
    """Check that the file loads, read its precision back, and copy it into an engine folder.

    Args:
        target: The target's name.
        folder: The ONNX folder.
        options: What the engine has to serve.
        out: The engine folder.
        providers: ONNX Runtime's execution providers, in the order of preference.
        facts: The fields of EngineInfo that only the target knows: versions, device, tied_to.
    """
    machine.cpu.check_threads(options.threads)
    yield Progress(0, 3, "reading the ONNX file")
    model = read_onnx(folder)
    requested = engine.asked_precision(model, options.precision)
    served = shapes.profiles(model, options)
    start = time.perf_counter()
    yield Progress(1, 3, "optimising the graph")
    elements = weight_elements(model.path, providers)
    weight_shares, strict = shares(elements), engine.is_promised(model, options.precision)
    name = f"{target}, {model.path}"
    precision = engine.check_precision(requested, weight_shares, model, name, strict=strict)
    with engine.new_engine_folder(out) as new:
        yield Progress(2, 3, "writing the engine")
        _copy(model, new)
        info = engine.EngineInfo(
            target=target,
            inputs=model.inputs,
            outputs=model.outputs,
            precision_asked=requested,
            precision_found=precision,
            precision_shares=weight_shares,
            profiles=tuple(served),
            threads=options.threads,
            build_seconds=time.perf_counter() - start,
            source=model.content,
            details={"heavy_layers": len(elements)},
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


def weight_elements(file: Path, providers: Sequence[Provider]) -> list[tuple[str, int]]:
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
