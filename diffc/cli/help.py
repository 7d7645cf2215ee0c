"""Verbs as typer knows them: help with its options in groups, and names that are nearly right."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from diffc.cli.flags.flag import ADVANCED, FORMER_NAMES, GROUPS, MEANINGS
from diffc.cli.stdout import stream_columns
from diffc.cli.usage import check_values
from diffc.errors import RequestError

if TYPE_CHECKING:
    Record = tuple[str, str]

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


def _fit_terminal(ctx: Any) -> None:
    """Give help the terminal's width, below typer's 50 columns too."""
    columns = stream_columns(sys.stdout) or shutil.get_terminal_size().columns
    columns = min(columns, ctx.max_content_width or _WIDEST)
    ctx.terminal_width = ctx.terminal_width or max(columns - 2, _NARROWEST)


class VerbCommand(TyperCommand):
    """A verb. Its help shows the options in groups, and options keep their former names."""

    def get_help(self, ctx: Any) -> str:
        """The help, as wide as the terminal."""
        _fit_terminal(ctx)
        return super().get_help(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; a note on stderr names the new spelling of an option."""
        known = {name for one in self.get_params(ctx) for name in one.opts}
        quiet = {"-q", "--quiet"} & {*args}
        for former, name in FORMER_NAMES.items():
            if former in known or name not in known:
                continue
            renamed = [_renamed(arg, former, name) for arg in args]
            if renamed != args and not quiet:
                note = f"{former} is now {name}: {MEANINGS[name]}"
                print(f"diffc: note: {note}", file=sys.stderr)
            args = renamed
        check_values(args, self.get_params(ctx))
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``[OPTIONS] OUT``: the arguments by the names that help explains."""
        arguments = [_name(one) for one in self.get_params(ctx) if _is_argument(one)]
        return [self.options_metavar or "", *arguments]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options under its title."""
        params = self.get_params(ctx)
        _write(formatter, "Arguments", [_record(one) for one in params if _is_argument(one)])
        for group in GROUPS:
            options = [one for one in params if not _is_argument(one) and _group(one) == group]
            _write(formatter, group, [_record(one) for one in options])


def _renamed(arg: str, former: str, name: str) -> str:
    """``arg`` with ``name`` where it is the option ``former``, with a value or without."""
    option, sign, value = arg.partition("=")
    return f"{name}{sign}{value}" if option == former else arg


class VerbGroup(TyperGroup):
    """Several verbs. A name that is none of them is refused with the nearest ones."""

    def get_help(self, ctx: Any) -> str:
        """The help, as wide as the terminal."""
        _fit_terminal(ctx)
        return super().get_help(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each verb with its whole sentence, which typer would cut to one line."""
        verbs = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = [(name, _first_sentence(verb)) for name, verb in verbs if verb and not verb.hidden]
        _write(formatter, "Commands", shown)

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


def _write(formatter: Any, title: str, records: Sequence[Record]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records, col_max=min(_MOST_NAMES, formatter.width * 2 // 5))


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _group(option: Any) -> str:
    return getattr(option, "rich_help_panel", None) or ADVANCED


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _record(param: Any) -> Record:
    """How the parameter is typed, and what it is."""
    if _is_argument(param):
        return _name(param), param.help or ""
    spellings = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        spellings += " / " + ", ".join(param.secondary_opts)
    value = "" if param.is_flag or not param.metavar else f" {param.metavar}"
    return spellings + value, (param.help or "") + ("  [required]" if param.required else "")
