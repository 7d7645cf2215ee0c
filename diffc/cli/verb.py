"""A verb as typer knows it: help with its options in groups, and options' former names."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperCommand

from diffc.cli.flags.flag import ADVANCED, FORMER_NAMES, GROUPS, MEANINGS
from diffc.cli.help import Record, fit_terminal, write_records
from diffc.cli.usage import check_values


class VerbCommand(TyperCommand):
    """A verb. Its help shows the options in groups, and options keep their former names."""

    def get_help(self, ctx: Any) -> str:
        """The help, as wide as the terminal."""
        fit_terminal(ctx)
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
        write_records(formatter, "Arguments", [_record(one) for one in params if _is_argument(one)])
        for group in GROUPS:
            options = [one for one in params if not _is_argument(one) and _group(one) == group]
            write_records(formatter, group, [_record(one) for one in options])


def _renamed(arg: str, former: str, name: str) -> str:
    """``arg`` with ``name`` where it is the option ``former``, with a value or without."""
    option, sign, value = arg.partition("=")
    return f"{name}{sign}{value}" if option == former else arg


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
