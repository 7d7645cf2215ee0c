"""Everything that the TensorRT builder and runner use exists in the real bindings.

The full TensorRT cannot be installed everywhere, its bindings can: their wheels import against
stand-ins for the native libraries that hold nothing but the functions' names. No engine is built or
run here, and nothing says so.

What is used is read from diffc's own source: each attribute taken of a variable that holds an
object of the library (``config.progress_monitor``, ``trt.Runtime``) must exist on that object's
class. So a line added to the builder is checked without a line added here.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import diffc.targets

SOURCES = ("trt_builder.py", "trt_precision.py", "trt_runner.py")
CLASSES = {  # what a variable or attribute of this name holds
    "trt": None,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "made": "IOptimizationProfile",
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
    "cache": "ITimingCache",
}
OURS = {  # names that also hold things of diffc's own: diffc's Network, Path
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
print(json.dumps({"": dir(module)} | {n: dir(getattr(module, n)) for n in dir(module)}))
"""


def used():
    """(variable, attribute, where) of every use in the sources."""
    found = []
    for name in SOURCES:
        path = Path(diffc.targets.__file__).parent / name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                held = getattr(owner, "id", None) or getattr(owner, "attr", None)
                if held in CLASSES and node.attr not in OURS.get(held, set()):
                    found.append((held, node.attr, f"{name}:{node.lineno}"))
                if getattr(owner, "attr", None) in ENUMS:
                    found.append((owner.attr, node.attr, f"{name}:{node.lineno}"))
    return found


ENUMS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "LayerInformationFormat",
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
    return absent


def test_enough_is_read_from_the_sources():
    """The reader of the sources would not notice a builder that it cannot read at all."""
    pairs = {(held, attribute) for held, attribute, _ in used()}
    assert {
        ("trt", "Runtime"),
        ("builder", "create_network"),
        ("config", "progress_monitor"),
        ("made", "set_shape"),
        ("_context", "execute_async_v3"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("parser", "parse_from_file"),
        ("tensor", "dtype"),
    } <= pairs
    assert len(pairs) > 40


def listed(module, environment):
    command = [sys.executable, "-c", LIST, module]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


def test_rtx_has_all_of_it():
    pytest.importorskip("tensorrt_rtx")
    assert missing(listed("tensorrt_rtx", dict(os.environ))) == []


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
