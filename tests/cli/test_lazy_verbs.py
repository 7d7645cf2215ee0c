"""A verb is imported when it is used: commands that name verbs import none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from diffc.cli.app import VERBS, app
from diffc.cli.help import VerbGroup
from diffc.cli.verbs import LazyCommands, VerbRow

FILES = {f"diffc.cli.{row.place.partition(':')[0]}" for row in VERBS}
"""The modules of verbs."""


def imported(*args: str) -> set[str]:
    """What a fresh interpreter has imported when ``diffc ARGS`` has ended."""
    script = (
        "import sys\n"
        "from diffc.cli import main\n"
        f"sys.argv = ['diffc', *{args!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("args", [("--help",), (), ("help",), ("--version",)])
def test_naming_verbs_imports_none(args):
    modules = imported(*args)
    assert "diffc.cli.app" in modules
    heavy = {"diffc.cli.flags", "diffc.recipe", "pydantic", "numpy", "torch", "rich", "yaml"}
    assert not modules & (FILES | heavy)


def test_a_verb_that_is_misspelt_imports_none():
    """typer itself imports pydantic to read an argument."""
    assert not imported("compil") & {*FILES, "diffc.cli.flags", "diffc.recipe", "numpy", "torch"}


def test_the_help_of_a_verb_imports_that_verb_alone():
    assert imported("bench", "-h") & FILES == {"diffc.cli.bench"}


def test_every_row_is_a_verb_that_says_what_it_does():
    commands = typer.main.get_command(app).commands
    assert list(commands) == [row.name for row in VERBS]
    for row, (name, command) in zip(VERBS, commands.items(), strict=True):
        assert command.name == name == row.name
        assert row.sentence[-1] in ".?"
        if isinstance(row.load(), typer.Typer):
            assert isinstance(command, VerbGroup) and command.help == row.sentence
            assert command.commands
        else:
            assert command.short_help == row.sentence and command.params


def test_a_verb_is_built_when_it_is_taken(monkeypatch):
    loaded = []
    monkeypatch.setattr(VerbRow, "load", lambda row: loaded.append(row.name) or (lambda: None))
    commands = LazyCommands(VERBS)
    assert "plan" in commands and "nope" not in commands and len(commands) == len(list(commands))
    assert commands.get("nope") is None and loaded == []
    assert commands["plan"] is commands["plan"]
    assert loaded == ["plan"]
