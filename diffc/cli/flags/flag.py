"""Flag: one row of the flag table, and how it becomes a parameter of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Annotated

import typer

from diffc.cli.flags.values import user_path


@dataclass(frozen=True)
class Flag:
    """One row of the flag table: a flag, or an argument without dashes.

    Attributes:
        key: the name in ``@takes``. It is the spelling too, unless ``name`` says otherwise.
        kind: the type of its value, without None. A ``~`` in a Path is the home folder.
        help: one sentence; ``[shown]`` follows it.
        path: the recipe's option that the flag sets, such as ``build.threads``; None: it sets none.
        shown: the default, as help shows it; "" shows no default.
        name: the spelling without dashes, and the name of the verb's parameter: two verbs can spell
            two flags alike.
        options: the spellings with dashes, where ``--name`` alone is not enough.
        default: the value without the flag. A flag with a path has None, so that the other layers
            of the recipe count.
        argument: True for an argument, which is given without dashes.
        required: True for a flag that has to be given.
        metavar: what stands for the value in help.
        check: looks at the value when the command line is read, and returns it.
        minimum: the smallest number.
        read: turns the text into the recipe's value when the verb begins.
    """

    key: str
    kind: type[object] | GenericAlias
    help: str
    path: str | None = None
    shown: str = ""
    name: str = ""
    options: tuple[str, ...] = ()
    default: object = None
    argument: bool = False
    required: bool = False
    metavar: str | None = None
    check: Callable[[int | None], int | None] | None = None
    minimum: float | None = None
    read: Callable[[str], object] | None = None

    @property
    def parameter_name(self) -> str:
        """The name of the parameter that holds the flag's value."""
        return self.name or self.key

    def parameter(self) -> inspect.Parameter:
        """The flag as typer reads it from a function's signature."""
        default = self.default
        if self.required or (self.argument and default is None):
            default = inspect.Parameter.empty
        elif self.kind is bool and self.path is None:
            default = False
        annotation = self.kind | None if default is None else self.kind
        return inspect.Parameter(
            self.parameter_name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[annotation, self._typer_info()],
            default=default,
        )

    def _typer_info(self) -> object:
        text = f"{self.help}  [{self.shown}]" if self.shown else self.help
        parser = user_path if self.kind in (Path, list[Path]) else None
        if self.argument:
            return typer.Argument(metavar=self.metavar, help=text or None, parser=parser)
        options = self.options or ("--" + self.parameter_name.replace("_", "-"),)
        return typer.Option(
            *options,
            help=text,
            metavar=self.metavar,
            parser=parser,
            callback=self.check,
            min=self.minimum,
        )
