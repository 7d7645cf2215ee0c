"""Two equal output folders, and the command line in this process."""

from __future__ import annotations

import shutil

import pytest
from support.gate_folders import PEAK, edit, make_output

from diffc.gate import figures
from diffc.measure.results import Memory
from diffc_export.targets import fake


@pytest.fixture
def run(monkeypatch, capfd):
    """The command line in this process, without processes for memory: (code, stdout, stderr)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    memory = Memory(engine_bytes=3, peak_bytes=PEAK)
    monkeypatch.setattr(figures, "measure_memory", lambda *_, **__: memory)

    def call(*args):
        from diffc.cli import main

        monkeypatch.setattr("sys.argv", ["diffc", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err, said.err
        return ended.value.code or 0, said.out, said.err

    return call


@pytest.fixture
def measured(monkeypatch):
    """What was loaded: nothing, where a check ends before it measures."""
    loads, load = [], fake.Fake.load

    def noted(self, folder, threads=None):
        loads.append(folder)
        return load(self, folder, threads)

    monkeypatch.setattr(fake.Fake, "load", noted)
    return loads


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """A measured output folder, to be copied and never changed."""
    folder = make_output(tmp_path_factory.mktemp("made") / "out")

    def set_memory(report):
        report["targets"][0]["compressed"]["memory"]["peak_bytes"] = PEAK

    edit(folder / "report.json", set_memory)
    return folder


@pytest.fixture
def out(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def before(output, tmp_path):
    shutil.copytree(output, tmp_path / "before")
    return tmp_path / "before"
