"""What a command line says: ``@takes`` names the flags of a verb, and Command holds their values.

    @takes("model", "ratio", "no_build", "json")
    def compile_(command: Command, no_build: bool) -> None: ...

The values of flags with a path go into ``command.options``, nested as a recipe is; those of the
flags that many verbs share are the other fields of Command; the rest are the verb's parameters.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import typer

from diffc.cli.flags import FLAGS, Flag
from diffc.cli.flags.flag import WritingPlace
from diffc.cli.stdout import answers_alone
from diffc.errors import RequestError

Verb = Callable[..., None]


@dataclass(frozen=True)
class Command:
    """The values of the flags that several verbs take.

    Attributes:
        options: what the flags set in the recipe, nested as a recipe is; absent: not given.
        model: a model, or an output folder in its place.
        out: the output folder; None: the default one.
        recipe: a shipped recipe's name or a YAML file.
        family: the diffusers class as which the denoiser is treated; None: its own.
        allow_pickle: True accepts .bin weights.
        fresh: True ignores the cache.
        json: True prints one JSON object on stdout and nothing else.
        quiet: True prints no progress and no tables.
    """

    options: dict[str, object] = field(default_factory=dict)
    model: str = ""
    out: Path | None = None
    recipe: str | None = None
    family: str | None = None
    allow_pickle: bool = False
    fresh: bool = False
    json: bool = False
    quiet: bool = False

    def section(self, name: str) -> dict[str, object]:
        """The given options of one section; empty when there are none."""
        section = self.options.get(name, {})
        assert isinstance(section, dict)
        return section

    @property
    def silent(self) -> bool:
        """True shows no progress: --quiet was given, or --json has the screen."""
        return self.quiet or self.json


_SHARED = {field.name for field in fields(Command)}
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


_OUTS = {"output_folder", "things"}
"""The arguments of verbs that go on from OUT, by whose recipe they do what no flag says."""


def takes(
    *keys: str,
    context: bool = False,
    goes_on: bool = False,
    place: WritingPlace | None = None,
    anew: Collection[str] = (),
) -> Callable[[Verb], Verb]:
    """Make a function a verb with the flags of these keys, in the order that help shows them.

    The function gets a Command, and by name the flags that neither have a path nor are in Command.

    Args:
        keys: of the flag table.
        context: True hands in typer's context too, by that name.
        goes_on: True where an interrupted verb keeps what is done, and the same command goes on.
        place: where the verb writes, if no flag of it says that.
        anew: keys of options that a verb on OUT does not take over from OUT's recipe.

    Raises:
        KeyError: a key is not in the flag table.
    """
    of_out = bool(_OUTS.intersection(keys))
    parameters = [_shown_flag(key, of_out and key not in anew).parameter() for key in keys]
    if context:
        parameters.append(_CONTEXT)

    def decorate(function: Verb) -> Verb:
        def verb(**values: object) -> None:
            command, own = _read_values(keys, values)
            if context:
                own[_CONTEXT.name] = values[_CONTEXT.name]
            with answers_alone():
                function(command, **own)

        verb.__doc__ = function.__doc__
        verb.__name__ = function.__name__
        verb.__module__ = function.__module__
        verb.__annotations__ = {}
        vars(verb)["__signature__"] = inspect.Signature(parameters)
        vars(verb)["__wrapped__"] = function
        vars(verb)["flag_keys"] = keys
        vars(verb)["goes_on"] = goes_on
        vars(verb)["place"] = place
        return verb

    return decorate


def _shown_flag(key: str, of_out: bool) -> Flag:
    """The flag; its default is shown as OUT's where it comes from OUT's recipe."""
    flag = FLAGS[key]
    from_out = of_out and flag.path is not None and flag.shown
    return replace(flag, shown="OUT's") if from_out else flag


def _read_values(
    keys: Sequence[str], values: Mapping[str, object]
) -> tuple[Command, dict[str, object]]:
    """The command, and the verb's own values by name."""
    given = {key: values[FLAGS[key].parameter_name] for key in keys}
    of_recipe = {key: value for key, value in given.items() if FLAGS[key].path is not None}
    others = {
        FLAGS[key].parameter_name: FLAGS[key].value_of(given[key])
        for key in keys
        if key not in of_recipe
    }
    shared = {name: value for name, value in others.items() if name in _SHARED}
    own = {name: value for name, value in others.items() if name not in _SHARED}
    return Command(recipe_options(of_recipe), **shared), own  # type: ignore[arg-type]


def recipe_options(values: Mapping[str, object]) -> dict[str, object]:
    """Flags as options nested like a recipe's.

    Args:
        values: key of a flag with a path -> what was typed; None and [] mean that it was not
            given.

    Raises:
        RequestError: a value is no such value.
    """
    options: dict[str, object] = {}
    for key, value in values.items():
        if value is not None and value != []:
            flag = FLAGS[key]
            _set_option(options, FLAGS[flag.instead.get(str(value), key)], value)
    prune = options.get("prune", {})
    assert isinstance(prune, dict)
    check_ratio_or_fit(prune)
    return options


def check_ratio_or_fit(prune: Mapping[str, object]) -> None:
    """Refuse two flags of which each says how much goes.

    Raises:
        RequestError: ``prune`` has a ratio and what to fit into.
    """
    if {"ratio", "fit"} <= prune.keys():
        raise RequestError(
            f"--ratio {prune['ratio']} and --fit {prune['fit']}: each says how much goes",
            hint="give one of the two",
        )


def _set_option(options: dict[str, object], flag: Flag, value: object) -> None:
    """Put ``value`` where the flag's path says."""
    assert flag.path is not None
    *sections, name = flag.path.split(".")
    for section in sections:
        inner = options.setdefault(section, {})
        assert isinstance(inner, dict)
        options = inner
    options[name] = flag.value_of(value)


def command_line() -> str:
    """This command, as it can be typed again."""
    return shlex.join(["diffc", *sys.argv[1:]])
