"""What diffc ends with when it fails itself: never 1, which says that a check failed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from diffc.cli import main


def ended(monkeypatch, capfd, error):
    def fail(**_):
        raise error

    monkeypatch.setattr("diffc.cli.app.app", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capfd.readouterr().err


class Panic(BaseException):
    """As libraries in Rust raise them."""


@pytest.mark.parametrize("error", [KeyError("model"), ValueError("x"), MemoryError(), Panic("no")])
def test_a_bug_ends_with_70_and_its_traceback(monkeypatch, capfd, error):
    code, said = ended(monkeypatch, capfd, error)
    assert code == 70
    assert "Traceback" in said and type(error).__name__ in said
    assert said.rstrip().splitlines()[-1].startswith("diffc: this is a bug in diffc")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_the_users_matter(monkeypatch, capfd, code):
    error = OSError(code, os.strerror(code), "/mnt/x.json")
    ending, said = ended(monkeypatch, capfd, error)
    assert ending == 2 and "Traceback" not in said
    assert said.startswith(f"diffc: cannot write /mnt/x.json: {os.strerror(code)}\n")


@pytest.mark.parametrize("name", ["CheckFailed", "Inconclusive", "NotComparable", "InputError"])
def test_what_is_meant_keeps_its_own_code(monkeypatch, capfd, name):
    import diffc.errors

    kind = getattr(diffc.errors, name)
    code, said = ended(monkeypatch, capfd, kind("said", hint="do this"))
    assert code == kind.exit_code != 70
    assert said == "diffc: said\n  do this\n"


def test_a_full_disk_behind_stdout_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "diffc", "recipes", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert "cannot write the answer to stdout, or a file: No space left" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_reader_that_went_away_is_no_failed_check(monkeypatch, capfd):
    """typer turns it into exit code 1 while the verb runs."""
    import typer

    app = typer.Typer()

    app.command("other")(lambda: None)  # with two, typer asks for a name

    @app.command()
    def verb():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.argv", ["diffc", "verb"])
    monkeypatch.setattr("diffc.cli.app.app", app)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 141  # where the signal does not end the process


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="this system has no SIGPIPE")
def test_a_reader_that_went_away_ends_a_verb_as_it_ends_other_programs():
    verb = [sys.executable, "-m", "diffc", "recipes", "show", "sd15"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(verb, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
