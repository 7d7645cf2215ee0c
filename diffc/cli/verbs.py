"""Rows of verbs: what ``diffc --help`` says of each, and where it is imported from when it is used.

The rows stand in app.py. To import every verb and build its flags takes longer than all the rest of
``diffc --help``, so a row has all that a command needs which only names verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import typer

from diffc.cli.help import Record, VerbGroup


class VerbRow(NamedTuple):
    """A verb, or a group of verbs.

    Attributes:
        name: as it is typed.
        sentence: what it does; the help of a group, and the short help of a verb.
        place: ``file:attribute`` in diffc/cli: the verb's function, or the group's typer.Typer.
    """

    name: str
    sentence: str
    place: str

    def load(self) -> Callable[..., None] | typer.Typer:
        """Import the verb's function, or the group."""
        file, _, attribute = self.place.partition(":")
        verb: Callable[..., None] | typer.Typer = getattr(
            import_module(f"diffc.cli.{file}"), attribute
        )
        return verb

    def command(self) -> Any:
        """The verb as typer runs it, built anew."""
        from diffc.cli.verb import VerbCommand

        group, verb = typer.Typer(rich_markup_mode=None), self.load()
        if isinstance(verb, typer.Typer):
            group.add_typer(verb, name=self.name, help=self.sentence)
        else:
            group.command(self.name, cls=VerbCommand, short_help=self.sentence)(verb)
        return typer.main.get_group(group).commands[self.name]


class LazyCommands(Mapping[str, Any]):
    """Name -> the verb as typer runs it, which is built when it is taken. Names build nothing.

    Attributes:
        rows: the table of verbs, in the order of the names.
    """

    def __init__(self, rows: Sequence[VerbRow]) -> None:
        self.rows = {row.name: row for row in rows}
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The verb of this name.

        Raises:
            KeyError: there is no such verb.
        """
        if name not in self._built:
            self._built[name] = self.rows[name].command()
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a verb; Mapping's own answer would build it."""
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the table."""
        return iter(self.rows)

    def __len__(self) -> int:
        """How many verbs there are."""
        return len(self.rows)


class LazyGroup(VerbGroup):
    """A group whose verbs are rows, and whose help imports none of them."""

    rows: Sequence[VerbRow] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": LazyCommands(self.rows)})

    def verb_records(self) -> list[Record]:
        """Each verb's name, and what it does, from the rows."""
        return [(row.name, row.sentence) for row in self.rows]
