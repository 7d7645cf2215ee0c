"""Groups of verbs as typer knows them: their help, and names that are nearly right.

``diffc --help`` is made here, so that nothing of a verb is imported.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from typer.core import TyperGroup

from diffc.cli.stdout import stream_columns
from diffc.errors import RequestError

Record: TypeAlias = tuple[str, str]
"""A name, and what it is."""

_OTHER_WORDS = {
    "run": "generate",
    "sample": "generate",
    "serve": "bundle",
    "compare": "report",
    "show": "report",
    "measure": "bench",
    "train": "distill",
    "distil": "distill",
    "quantize": "build",
    "test": "check",
    "clean": "cache",
}
"""What people type, and the verb that does it."""
_SHOWING = {"show", "list", "ls", "info"}
"""What people type for what a group of verbs shows without a verb."""


_WIDEST = 80
_NARROWEST = 24  # below this a column of options leaves its texts no room
_MOST_NAMES = 30  # columns for the names of options; a longer one has a line of its own


def fit_terminal(ctx: Any) -> None:
    """Give help the terminal's width, below typer's 50 columns too."""
    columns = stream_columns(sys.stdout) or shutil.get_terminal_size().columns
    columns = min(columns, ctx.max_content_width or _WIDEST)
    ctx.terminal_width = ctx.terminal_width or max(columns - 2, _NARROWEST)


class VerbGroup(TyperGroup):
    """Several verbs. A name that is none of them is refused with the nearest ones."""

    def get_help(self, ctx: Any) -> str:
        """The help, as wide as the terminal."""
        fit_terminal(ctx)
        return super().get_help(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each verb with its whole sentence, which typer would cut to one line."""
        write_records(formatter, "Commands", self.verb_records())

    def verb_records(self) -> list[Record]:
        """Each verb's name, and what it does, in the order of the help."""
        return [(name, _first_sentence(verb)) for name, verb in self.commands.items()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; without any, a group that does nothing by itself shows its help."""
        return super().parse_args(ctx, args or ([] if self.invoke_without_command else ["--help"]))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that ``args`` begins with.

        Raises:
            RequestError: there is no such verb.
        """
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.commands:
            raise RequestError(
                f"there is no verb '{name}'", hint=_verb_hint(name, self.commands, ctx)
            )
        return super().resolve_command(ctx, args)


def _first_sentence(verb: Any) -> str:
    """What the verb does, in the words that its own help begins with."""
    paragraph = (verb.short_help or verb.help or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _verb_hint(name: str, verbs: Any, ctx: Any) -> str:
    if name in _SHOWING and ctx.command.invoke_without_command:
        return f"{ctx.command_path} alone shows what there is"
    other = _OTHER_WORDS.get(name, "")
    close = [other] if other in verbs else get_close_matches(name, list(verbs), n=1, cutoff=0.7)
    path = ctx.command_path
    return f"did you mean {path} {close[0]}?" if close else f"{path} --help lists the verbs"


def write_records(formatter: Any, title: str, records: Sequence[Record]) -> None:
    """Write a section of help; nothing for no records.

    Args:
        formatter: a HelpFormatter of click's.
        title: the section's.
        records: a name, and what it is.
    """
    if records:
        with formatter.section(title):
            formatter.write_dl(records, col_max=min(_MOST_NAMES, formatter.width * 2 // 5))
