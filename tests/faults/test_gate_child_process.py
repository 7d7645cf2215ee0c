"""The process whose memory is measured imports nothing from the folder that the user is in."""

from __future__ import annotations

import os
import sys

import pytest
from support.onnx_folder import write_handmade_folder

from diffc.measure.memory import measure_memory
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    onnx = write_handmade_folder(folder / "onnx", 8, macs=1_000_000)
    drain(target("ort-cpu").build(onnx, BuildOptions(threads=1), folder / "-engine"))
    return folder / "-engine"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A working directory whose names are packages': importing one leaves a file behind."""
    for name in ("numpy", "tokenize", "runpy", "json", "argparse", "resource", "psutil"):
        (tmp_path / f"{name}.py").write_text(
            "import pathlib\npathlib.Path('ran').touch()\nraise ImportError('not built')\n"
        )
    for name in ("onnxruntime", "importlib", "diffc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text((tmp_path / "numpy.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_scripts_and_folders_of_the_working_directory_are_not_run(engine, trap):
    assert measure_memory(engine, 1, split=False).peak_bytes > 0
    assert not (trap / "ran").exists()


@pytest.mark.parametrize("given", ["", ".", f"{os.pathsep}.", f".{os.pathsep}"])
def test_nor_by_an_empty_entry_of_the_path(engine, trap, monkeypatch, given):
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{before}{os.pathsep}{given}" if before else given)
    assert measure_memory(engine, 1, split=False).peak_bytes > 0
    assert not (trap / "ran").exists()


def test_a_relative_engine_whose_name_begins_with_a_dash(engine, monkeypatch):
    monkeypatch.chdir(engine.parent)
    assert measure_memory(type(engine)("-engine"), 1, split=False).peak_bytes > 0


def test_it_is_this_very_diffc(engine, monkeypatch, tmp_path):
    """Not another one that is installed: a probe of ours, in a package beside this one."""
    from diffc.measure import memory

    package = tmp_path / "diffc"
    (package / "measure").mkdir(parents=True)
    for folder in (package, package / "measure"):
        (folder / "__init__.py").write_text("")
    (package / "measure" / "probe.py").write_text(
        'print(\'{"device": [null, null, null], "device_how": null, "allocator": null,'
        ' "start": 1, "run": 3, "peak": 42}\')\n'
    )
    monkeypatch.setattr(memory.diffc, "__file__", str(package / "__init__.py"))
    assert measure_memory(engine, 1, split=False).peak_bytes == 42
    assert "diffc" in sys.modules
