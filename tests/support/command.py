"""The command line, in a process of its own or, which is seconds cheaper, in this one."""

from __future__ import annotations

import atexit
import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended, named as ``subprocess`` names it."""

    returncode: int
    stdout: str
    stderr: str


def diffc_in_process(*args: object, **variables: str) -> Ended:
    """Run ``diffc ARGS`` from its entry point in this process, with these environment variables.

    For tests of what a command says and leaves. What is imported, what ``tempfile`` or a locale has
    read, and what native code writes to the terminal is a process's own: ``diffc_process``.
    """
    from diffc.cli import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["diffc", *map(str, args)])
        patch.setattr(signal, "signal", lambda *_: None)
        patch.setattr(atexit, "register", lambda *_: None)
        for name, value in variables.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Ended(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def diffc_process(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``diffc ARGS`` in a process of its own."""
    command = [sys.executable, "-m", "diffc", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
