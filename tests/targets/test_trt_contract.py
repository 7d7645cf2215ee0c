"""Everything that the TensorRT builder and runner use exists in the real bindings.

The full TensorRT cannot be installed everywhere, its bindings can: their wheels import against
stand-ins for the native libraries that hold nothing but the functions' names. No engine is built or
run here, and nothing says so.

What is used is read from diffc's own source: each attribute taken of a variable that holds an
object of the library (``config.progress_monitor``, ``trt.Runtime``) must exist on that object's
class; each keyword must be in the method's signature, which the bindings have in ``__doc__``; each
name that a layer's kind or type is compared with must be a member of that enumeration. So a line
added to the builder is checked without a line added here.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

import diffc_export
from diffc_export.targets import trt_precision

SOURCES = (
    "diffc_export/targets/trt_builder.py",
    "diffc_export/targets/trt_precision.py",
    "diffc_export/targets/trt_engine.py",
    "diffc_runtime/libraries/tensorrt.py",
    "diffc_runtime/loaders/trt.py",
)
INSPECTORS_OWN = {"BFLOAT16"}  # what it calls a type that the enumeration calls otherwise
CLASSES = {  # what a variable or attribute of this name holds
    "trt": None,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "optimization": "IOptimizationProfile",
    "layer": "ILayer",
    "maker": "ILayer",
    "tensor": "ITensor",
    "opened": "ICudaEngine",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "_engine": "ICudaEngine",
    "_config": "IRuntimeConfig",
    "_runtime_cache": "IRuntimeCache",
    "_context": "IExecutionContext",
    "context": "IExecutionContext",
    "_runtime": "Runtime",
    "cache": "ITimingCache",
}
_CONTEXT = {"set_shape", "place", "output_shape", "enqueue"}
OURS = {  # names that also hold things of diffc's own: diffc's Network, Path, TrtContext
    "context": _CONTEXT,
    "_context": _CONTEXT,
    "network": {"trt", "builder", "network", "parser", "log", "model", "flavour"},
    "cache": {"name"},
}
CAST = {"kernel": "IConvolutionLayer"}  # of a layer after its documented cast
RTX_ONLY = {
    "config.num_compute_capabilities",
    "config.set_compute_capability",
    "trt.ComputeCapability",
    "engine.create_runtime_config",
    "_config.create_runtime_cache",
    "_config.set_runtime_cache",
    "_runtime_cache.deserialize",
    "_runtime_cache.serialize",
}
FUNCTIONS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
LIST = """
import json, sys
module = __import__(sys.argv[1])
listed = {"": dir(module)} | {n: dir(getattr(module, n)) for n in dir(module)}
for name in sys.argv[2:]:
    owner, _, method = name.rpartition(".")
    listed[name] = getattr(getattr(getattr(module, owner, None), method, None), "__doc__", "")
print(json.dumps(listed))
"""


def nodes():
    """(where, node) of everything in the sources."""
    for name in SOURCES:
        path = Path(diffc_export.__file__).parents[1] / name
        for node in ast.walk(ast.parse(path.read_text())):
            yield f"{name}:{getattr(node, 'lineno', 0)}", node


def holder(node):
    """The name of the variable or attribute that an attribute is taken of."""
    return getattr(node.value, "id", None) or getattr(node.value, "attr", None)


def used():
    """(variable, attribute, where) of every use in the sources."""
    found = []
    for where, node in nodes():
        if isinstance(node, ast.Attribute):
            held = holder(node)
            if held in CLASSES and node.attr not in OURS.get(held, set()):
                found.append((held, node.attr, where))
            if getattr(node.value, "attr", None) in ENUMS:
                found.append((node.value.attr, node.attr, where))
    return found


def keywords():
    """(Class.method, keyword, where) of every call with one."""
    return [
        (f"{CLASSES[holder(node.func)]}.{node.func.attr}", keyword.arg, where)
        for where, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if CLASSES.get(holder(node.func))
        for keyword in node.keywords
    ]


def compared():
    """(enumeration, member) of every name that a layer's kind or type is compared with."""
    path = Path(trt_precision.__file__)
    words = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch("[A-Z][A-Z0-9_]+", str(node.value))
    }
    types = set(trt_precision._NAMES) - INSPECTORS_OWN
    kinds = words - set(trt_precision._NAMES)
    return [*(("DataType", name) for name in types), *(("LayerType", name) for name in kinds)]


ENUMS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "LayerInformationFormat",
    "Logger",
)


def missing(available, allowed=frozenset()):
    """The uses that ``available`` (class -> attributes) does not have."""
    absent = []
    for held, attribute, where in used():
        if f"{held}.{attribute}" in allowed:
            continue
        owner = CAST.get(attribute) or (held if held in ENUMS else CLASSES[held] or "")
        if attribute not in available.get(owner, []) and not attribute.startswith("__"):
            absent.append(f"{where}: {held}.{attribute}")
    for method, keyword, where in keywords():
        if f"{keyword}:" not in available[method]:
            absent.append(f"{where}: {method}({keyword}=)")
    names = (f"{owner}.{name}" for owner, name in compared() if name not in available[owner])
    return absent + [name for name in names if name not in allowed]


def test_enough_is_read_from_the_sources():
    """The reader of the sources would not notice a builder that it cannot read at all."""
    pairs = {(held, attribute) for held, attribute, _ in used()}
    assert {
        ("trt", "Runtime"),
        ("builder", "create_network"),
        ("config", "progress_monitor"),
        ("optimization", "set_shape"),
        ("_context", "execute_async_v3"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("parser", "parse_from_file"),
        ("tensor", "dtype"),
    } <= pairs
    assert len(pairs) > 40
    assert any(where.startswith("diffc_runtime/libraries/tensorrt.py") for _, _, where in used())
    assert ("IBuilderConfig.set_timing_cache", "ignore_mismatch") in {k[:2] for k in keywords()}
    assert {
        ("LayerType", "MATRIX_MULTIPLY"),
        ("LayerType", "SHUFFLE"),
        ("DataType", "HALF"),
    } <= set(compared())


def listed(module, environment):
    methods = sorted({method for method, _, _ in keywords()})
    command = [sys.executable, "-c", LIST, module, *methods]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


@cache
def _rtx():
    return listed("tensorrt_rtx", dict(os.environ))


def test_rtx_has_all_of_it():
    pytest.importorskip("tensorrt_rtx")
    assert missing(_rtx()) == []


@pytest.fixture(scope="module", params=["cu12-bindings==10.9.*", "cu13-bindings==10.16.*",
                                        "cu13-bindings==11.*"])  # fmt: skip
def bindings(request, tmp_path_factory):
    """Class -> attributes of one real bindings wheel."""
    folder = tmp_path_factory.mktemp("bindings")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for the stand-ins")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest",
               str(folder), f"tensorrt-{request.param}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        if os.environ.get("DIFFC_CI"):  # a contract that nobody holds diffc to is none
            pytest.fail(f"tensorrt-{request.param} was not downloaded: {done.stderr[-500:]}")
        pytest.skip(f"tensorrt-{request.param} cannot be downloaded here")
    zipfile.ZipFile(wheels[0]).extractall(folder)
    major = request.param.split("==")[1].split(".")[0]
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
    (folder / "stand_in.c").write_text(source)
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        name = f"lib{library}.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", str(folder / "stand_in.c"),
                        f"-Wl,-soname,{name}", "-o", str(folder / name)], check=True)  # fmt: skip
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    return listed("tensorrt_bindings", environment)


@pytest.mark.slow
def test_tensorrt_has_all_of_it(bindings):
    assert missing(bindings, RTX_ONLY) == []


@pytest.mark.slow
def test_the_contract_can_fail(bindings):
    """TensorRT has no compute capabilities: without the exception they are found missing."""
    assert any("set_compute_capability" in line for line in missing(bindings))


def test_a_name_that_is_no_member_is_found(monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(trt_precision._NAMES, "FP12", "fp12")
    assert missing(_rtx()) == ["DataType.FP12"]


def test_a_keyword_that_is_not_in_the_signature_is_found():
    pytest.importorskip("tensorrt_rtx")
    signature = "set_timing_cache(self, cache: ITimingCache)"
    listing = {**_rtx(), "IBuilderConfig.set_timing_cache": signature}
    assert any("ignore_mismatch=" in line for line in missing(listing))
