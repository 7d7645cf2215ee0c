"""Stdout is for answers: what a target of another package prints goes to stderr."""

import json
import os
import re
import subprocess
import sys

import pytest
from support.command import diffc_in_process, diffc_process
from support.distributions import install

from diffc.cli.show import messages

PRINTS = {
    "print": "print('noise of the toy')",
    "a C library": "import os\nos.write(1, b'noise of the toy\\n')",
    "C's own buffer": "import ctypes\nctypes.CDLL(None).puts(b'noise of the toy')",
    "a child process": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'print(\"noise of the toy\")'], check=True)",
}
TARGET = """
from diffc_export.targets.base import Status
from diffc_export.targets.fake import Fake
import dataclasses

class Noisy(Fake):
    facts = dataclasses.replace(Fake.facts, name="noisy-toy")

    def status(self):
        {prints}
        return Status(True, True, True, "", {{}}, "no device")

TARGET = Noisy()
"""


@pytest.fixture(params=PRINTS)
def noisy(request, monkeypatch, tmp_path):
    """Installs a target whose ``status`` prints."""
    lines = PRINTS[request.param].replace("\n", "\n        ")
    points = "[diffc.targets]\nnoisy-toy = noisy_toy\n"
    source = TARGET.format(prints=lines)
    install(monkeypatch, tmp_path / "toys", "noisy-toys", {"noisy_toy": source}, points)


def test_json_is_alone_on_stdout(noisy):
    done = diffc_process("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert "noisy-toy" in json.loads(done.stdout)["targets"]
    assert "noise of the toy" in done.stderr


def test_tables_are_alone_on_stdout(noisy):
    done = diffc_process("doctor")
    assert "noisy-toy" in done.stdout and "noise of" not in done.stdout
    assert "noise of the toy" in done.stderr


def test_a_caller_s_stdout_is_as_it_was(monkeypatch, tmp_path):
    before, descriptor = sys.stdout, os.fstat(1)
    done = diffc_in_process("recipes", "show", "unet2d", "--json")
    assert json.loads(done.stdout)["recipe"]
    assert sys.stdout is before and os.path.samestat(os.fstat(1), descriptor)


@pytest.mark.parametrize("verb", [["--help"], ["recipes", "--help"], ["--version"]])
def test_help_is_an_answer(verb):
    done = diffc_process(*verb)
    assert done.returncode == 0 and done.stdout and not done.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", ">/dev/full"])
def test_closed_and_full_streams(closed):
    command = f'"{sys.executable}" -m diffc recipes show unet2d --json {closed}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if closed == "2>&-":
        assert json.loads(done.stdout)["recipe"]
    else:
        assert not done.stdout


def test_a_reader_that_ends_ends_the_verb():
    command = f'"{sys.executable}" -m diffc recipes show unet2d | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] in ("0", "141", "-13") and "Traceback" not in done.stderr


def in_a_terminal(*args, columns, **variables):
    """What ``diffc ARGS`` shows on a terminal that its stdout alone is."""
    import fcntl
    import struct
    import termios

    main, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm", **variables}
    for name in ("NO_COLOR", "COLUMNS"):
        variables.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "diffc", *args],
        stdin=subprocess.DEVNULL, stdout=side, stderr=subprocess.PIPE, env=variables,
    )  # fmt: skip
    os.close(side)
    shown = b""
    try:
        while block := os.read(main, 65536):
            shown += block
    except OSError:  # Linux says so at a terminal's end
        pass
    os.close(main)
    _, words = process.communicate()
    assert process.returncode == 0, words
    return shown


needs_terminals = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")


@needs_terminals
def test_a_terminal_stays_one():
    shown = in_a_terminal("doctor", columns=200)
    assert b"ort-cpu" in shown and b"\x1b[" in shown


@needs_terminals
@pytest.mark.parametrize("columns", [50, 70])
@pytest.mark.parametrize("verb", [["compile", "--help"], ["plan", "demo"]], ids=" ".join)
def test_answers_are_as_wide_as_their_terminal(verb, columns):
    shown = in_a_terminal(*verb, columns=columns).decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    examples = "    diffc "  # commands, which stay whole
    widest = max(len(line) for line in plain if not line.startswith(examples))
    assert columns - 12 <= widest <= columns


def test_words_between_colons_stay_what_they_are(capsys):
    """A prompt or a folder's name may have what rich takes for an emoji's name."""
    messages().print("worst image: a :cat: on a mat, from ./:dog:/model")
    assert "a :cat: on a mat, from ./:dog:/model" in capsys.readouterr().err
