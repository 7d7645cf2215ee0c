"""scripts/triton_onnxruntime.sh with a stand-in for the compiler: what it compiles, and where."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "triton_onnxruntime.sh"
COMPILER = """#!/bin/sh
echo "$@" >> "{log}"
while [ $# -gt 1 ]; do [ "$1" != -o ] || : > "$2"; shift; done
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("bash") is None, reason="a script for bash on Linux"
)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def server(tmp_path) -> Path:
    """A folder as scripts/triton_env.sh leaves it, whose Python has ONNX Runtime 9.9."""
    folder = tmp_path / "server"
    library = folder / "site" / "onnxruntime" / "capi" / "libonnxruntime.so.9.9"
    library.parent.mkdir(parents=True)
    library.write_text("")
    (folder / "b" / "python").mkdir(parents=True)
    (folder / "env.sh").write_text("")
    answer = f'case "$2" in *version*) echo 9.9 ;; *) echo "{folder}/site" ;; esac'
    executable(folder / "v" / "bin" / "python", f"#!/bin/sh\n{answer}\n")
    return folder


@pytest.fixture
def sources(tmp_path) -> Path:
    """The repositories, with one file of the backend's own."""
    folder = tmp_path / "sources"
    for name in ("common", "core", "backend", "onnxruntime_backend/src"):
        (folder / name).mkdir(parents=True)
    (folder / "onnxruntime" / "include" / "onnxruntime" / "core" / "session").mkdir(parents=True)
    (folder / "onnxruntime_backend" / "src" / "onnxruntime.cc").write_text("")
    return folder


def run(folder: Path, sources: Path, compiler: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "SOURCES": str(sources), "CXX": str(compiler)}
    command = ["bash", str(SCRIPT), str(folder)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


def test_the_backend_is_compiled_once(server, sources, tmp_path):
    log = tmp_path / "compiled"
    compiler = executable(tmp_path / "compiler", COMPILER.format(log=log))
    first = run(server, sources, compiler)
    assert first.returncode == 0, first.stderr
    backend = server / "b" / "onnxruntime"
    assert (backend / "libtriton_onnxruntime.so").is_file()
    assert (backend / "libonnxruntime.so.1").resolve().name == "libonnxruntime.so.9.9"
    lines = log.read_text().splitlines()
    assert f"-c {sources}/onnxruntime_backend/src/onnxruntime.cc" in lines[0]
    assert lines[-1].startswith("-shared ") and lines[-1].count(".o ") == len(lines) - 1
    assert run(server, sources, compiler).stderr == f"{backend} is ready\n"
    assert log.read_text().splitlines() == lines


def test_a_compiler_that_fails_leaves_no_backend(server, sources, tmp_path):
    """A server that has the folder is taken for one with the backend."""
    assert run(server, sources, executable(tmp_path / "compiler", "#!/bin/sh\nexit 1\n")).returncode
    assert [path.name for path in (server / "b").iterdir()] == ["python"]


def test_a_folder_without_a_server_is_refused(tmp_path, sources):
    ended = run(tmp_path, sources, tmp_path / "none")
    assert ended.returncode == 2
    assert ended.stderr == f"{tmp_path} has no server: scripts/triton_env.sh makes one\n"
