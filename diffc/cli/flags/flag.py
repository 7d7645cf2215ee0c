"""Flag: one row of the flag table, and how it becomes a parameter of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias
from typing import Annotated

import typer

from diffc.cli.flags.values import comma_parts, number, path_of, whole_number

WHAT, WHERE, QUALITY, ADVANCED = GROUPS = (
    "What",
    "Where it runs",
    "Quality and limits",
    "Advanced",
)
"""The groups of a verb's options, in the order of its help."""

FORMER_NAMES = {"--steps": "--distill-steps", "--fit": "--image-fit"}
"""What an option was called before, where the name means something else, or nothing, today."""

MEANINGS = {
    "--distill-steps": "training steps of distillation",
    "--image-fit": "what becomes of images of another size",
}
"""What the options with a former name are about."""

_METAVARS: dict[object, str] = {
    int: "N",
    float: "NUMBER",
    str: "NAME",
    Path: "PATH",
    list[str]: "NAME",
}
_READERS: dict[object, Callable[[str, str], object]] = {int: whole_number, float: number}


@dataclass(frozen=True)
class WritingPlace:
    """Where a verb writes.

    Attributes:
        words: what else there is to do where that disk is full; None: as for --out.
        beside: the flag without which the verb does not write there; "": it always does.
        unless: the flag with which it does not.
    """

    words: str | None = None
    beside: str = ""
    unless: str = ""

    def holds(self, typed: Collection[str]) -> bool:
        """Whether a verb with these flags writes there."""
        left_out = bool(self.unless) and self.unless in typed
        return not left_out and (not self.beside or self.beside in typed)


IN_TO = WritingPlace("or choose another --to")
IN_OUT = WritingPlace(
    "or move OUT to another disk, or choose another DIFFC_CACHE; what was done is kept"
)


@dataclass(frozen=True)
class Flag:
    """One row of the flag table: a flag, or an argument without dashes.

    Attributes:
        key: the name in ``@takes``. It is the spelling too, unless ``name`` says otherwise.
        kind: the type of its value, without None. A ``~`` in a Path is the home folder. Numbers
            and lists are read by the flag itself, so that errors have diffc's words: a list may
            be given in several flags, or in one with commas.
        help: one sentence; ``[shown]`` follows it.
        path: the recipe's option that the flag sets, such as ``build.threads``; None: it sets none.
        shown: the default, as help shows it; "" shows ``default``, if there is one.
        group: the group of the verb's help in which it stands.
        name: the spelling without dashes, and the name of the verb's parameter: two verbs can spell
            two flags alike.
        options: the spellings with dashes, where ``--name`` alone is not enough.
        default: the value without the flag. A flag with a path has None, so that the other layers
            of the recipe count.
        argument: True for an argument, which is given without dashes.
        required: True for a flag that has to be given.
        metavar: what stands for the value in help; None: by its kind.
        values: the values that completion offers; upper and lower case are the same in them. None:
            the words that the recipe takes at ``path``.
        instead: values that set another flag, by its key: what the flag meant before.
        read: turns the text into the value when the verb begins; None: by its kind. Of a list it
            reads each text, whose commas then part nothing.
        place: where a verb with the flag writes, for what is said of a full disk; None: the flag
            says nothing of that.
    """

    key: str
    kind: type[object] | GenericAlias
    help: str
    path: str | None = None
    shown: str = ""
    group: str = ADVANCED
    name: str = ""
    options: tuple[str, ...] = ()
    default: object = None
    argument: bool = False
    required: bool = False
    metavar: str | None = None
    values: Callable[[], Iterable[str]] | None = None
    instead: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], object] | None = None
    place: WritingPlace | None = None

    @property
    def parameter_name(self) -> str:
        """The name of the parameter that holds the flag's value."""
        return self.name or self.key

    @property
    def spelling(self) -> str:
        """The flag as it is typed; an argument's metavar."""
        if self.argument:
            return self.metavar or self.key.upper()
        return (self.options or ("--" + self.parameter_name.replace("_", "-"),))[0].split("/")[0]

    def parameter(self) -> inspect.Parameter:
        """The flag as typer reads it from a function's signature."""
        default = self.default
        if self.required or (self.argument and default is None):
            default = inspect.Parameter.empty
        elif self.kind is bool and self.path is None:
            default = False
        kind = str if self.kind in _READERS else self.kind
        annotation = kind | None if default is None else kind
        return inspect.Parameter(
            self.parameter_name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[annotation, self._typer_info()],
            default=default,
        )

    def value_of(self, given: object) -> object:
        """The value, from what typer read: text, a list of texts, a path or a boolean.

        Raises:
            RequestError: the text is no such value.
        """
        if isinstance(given, list) and self.read is not None:
            return [self.read(text) for text in given]
        if isinstance(given, list) and self.kind == list[str]:
            parts = [part for text in given for part in comma_parts(self.spelling, text)]
            return [self._as_spelled(part) for part in parts]
        if not isinstance(given, str):
            return given
        if self.read is not None:
            return self.read(given)
        if self.kind in _READERS:
            return _READERS[self.kind](self.spelling, given)
        return self._as_spelled(given)

    def _as_spelled(self, text: str) -> str:
        """The value that differs from ``text`` in upper and lower case alone, or ``text``."""
        if self.values is None or self.path is not None:  # the recipe sees to its own words
            return text
        return next((one for one in self.values() if one.lower() == text.lower()), text)

    def _typer_info(self) -> object:
        from diffc.cli.flags.completion import completer

        shown = self.shown or (str(self.default) if self.default not in (None, "", []) else "")
        text = f"{self.help}  [{shown}]".strip() if shown else self.help
        parser = path_of(self.spelling.rstrip(".")) if self.kind in (Path, list[Path]) else None
        metavar = self.metavar or _METAVARS.get(self.kind)
        if self.argument:
            return typer.Argument(
                metavar=self.metavar,
                help=text or None,
                parser=parser,
                show_default=False,
                autocompletion=completer(self),
            )
        options = self.options or (self.spelling,)
        return typer.Option(
            *options,
            help=text,
            metavar=None if self.kind is bool else metavar,
            parser=parser,
            show_default=False,
            rich_help_panel=self.group,
            autocompletion=None if self.kind is bool else completer(self),
        )
