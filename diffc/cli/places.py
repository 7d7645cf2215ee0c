"""Where else a verb can write when a disk takes no more, in the words of its own flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CACHE = "or choose another DIFFC_CACHE; what was done is kept"


def place_words(arguments: Sequence[str]) -> str | None:
    """What else there is to do where a disk is full; None where the verb has --out.

    A flag of one's own (--to) counts before one of every run (--out), and that before the folder
    that the verb works on.

    Args:
        arguments: The command line without the program's name.
    """
    from diffc.cli.flags import FLAGS

    verb = _verb(arguments)
    if verb.get("place") is not None:
        words: str | None = verb["place"].words
        return words
    typed = {argument.partition("=")[0] for argument in arguments}
    flags = (FLAGS[key] for key in verb.get("flag_keys", ()))
    there = [flag for flag in flags if flag.place is not None and flag.place.holds(typed)]
    places = [flag.place for flag in sorted(there, key=lambda flag: flag.argument)]
    beside = [place for place in places if place is not None and place.beside]
    chosen = next(iter([*beside, *places]), None)
    return _CACHE if chosen is None else chosen.words


def _verb(arguments: Sequence[str]) -> Mapping[str, Any]:
    """What ``@takes`` noted of the verb, in a group of verbs too; {} for none."""
    import typer

    from diffc.cli.app import VERBS

    name, *others = [*arguments, "", ""]
    verb = next((row.load() for row in VERBS if row.name == name), None)
    if isinstance(verb, typer.Typer):
        own = (one for one in verb.registered_commands if one.name == others[0])
        verb = next((one.callback for one in own), None)
    return {} if verb is None else vars(verb)
