"""Fixtures of the gate: an output folder as the baseline, and the command line in process."""

import pytest
from support.gate_folders import make_output


@pytest.fixture
def before(tmp_path):
    return make_output(tmp_path / "before")


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: (exit code, stdout, stderr)."""

    def call(*args):
        from diffc.cli import main

        monkeypatch.setattr("sys.argv", ["diffc", *map(str, args)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call
