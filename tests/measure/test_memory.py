"""Memory of a fresh process: true peaks, and no training package in it."""

import json
import subprocess
import sys

import pytest

from diffc.errors import UnavailableError
from diffc.measure.memory import measure_memory
from diffc.measure.probe import memory_field
from diffc.targets.engine import read_info

pytest.importorskip("onnxruntime")


@pytest.fixture
def engine(engines):
    return engines("ort-cpu", batch=(1,))["dense"]


def test_figures_are_of_a_fresh_process(engine):
    ballast = b"x" * (600 << 20)  # a big parent must not show in the child's peak
    found = measure_memory(engine, 1)
    assert found.engine_bytes == read_info(engine).engine_bytes
    assert 0 < found.runtime_bytes < found.peak_bytes < 400 << 20
    assert found.device_bytes is None
    assert len(ballast) == 600 << 20


def test_the_process_has_no_torch(engine):
    command = [sys.executable, "-m", "diffc.measure.probe", str(engine)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["torch"] == 0


def test_peak_is_at_least_what_was_touched():
    """VmHWM sees memory that was given back: 64 MiB touched and freed in a fresh process."""
    script = (
        "from diffc.measure.probe import memory_field as f\n"
        "a = f('VmRSS'); b = bytearray(b'x' * (64 << 20)); del b\n"
        "print(f('VmHWM') - a, f('VmRSS') - a)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    peak, now = map(int, done.stdout.split())
    assert peak >= 64 << 20
    assert now < 16 << 20
    assert memory_field("VmRSS") > 0


def test_engine_that_cannot_be_run_gives_the_reason(engine):
    (engine / "model.onnx").write_bytes(b"cut")
    with pytest.raises(UnavailableError, match=r"model\.onnx was cut or altered"):
        measure_memory(engine, 1)
