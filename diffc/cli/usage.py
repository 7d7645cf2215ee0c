"""The command line's own errors in diffc's words: what is wrong, and what would do.

``diffc --help`` reads this file, and not the flag table, which only an error needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer

from diffc.errors import RequestError, nearest

ClickException: type[BaseException] = typer.BadParameter.__mro__[2]
"""typer has its own copy of click, or click itself, depending on its version."""

_EXTRA_ARGUMENT = {"check": "name the other side: diffc check CANDIDATE --baseline {0}"}
"""Verb -> what to do about one argument too many."""


def request_error(error: Any) -> RequestError:
    """The error of typer's in diffc's words.

    Args:
        error: a ClickException.
    """
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "diffc"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return _no_such_option(error, context, path)
    if kind == "BadOptionUsage":
        return RequestError(_of_option(error), hint=f"see {path} -h")
    if kind == "MissingParameter" and error.param is not None:
        name = _spelling(error.param)
        return RequestError(f"{_verb(path)} needs {name}", hint=_usage(context, path))
    message = str(error.format_message()).rstrip(".")
    if "unexpected extra argument" in message:
        return _extra_argument(context, path, message)
    if getattr(error, "param", None) is not None:
        return RequestError(f"{_spelling(error.param)}: {_lowered(error.message)}")
    return RequestError(_lowered(message), hint=_usage(context, path))


def _no_such_option(error: Any, context: Any, path: str) -> RequestError:
    from diffc.cli.flags.flag import FORMER_NAMES

    name = error.option_name
    known = [one for one in _spellings(context) if one.startswith("--")]
    former = [one for one, now in FORMER_NAMES.items() if now in known]
    close = nearest(name, [*known, *former], n=1)
    others = _verbs_with(name, context)
    if others:
        hint = f"it is an option of diffc {', '.join(others)}{_in_a_recipe(name, known)}"
    elif close:
        hint = f"did you mean {FORMER_NAMES.get(close[0], close[0])}?"
    else:
        hint = f"{path} -h lists its options"
    owner = f"{_verb(path)} has" if " " in path else "there is"
    return RequestError(f"{owner} no option {name}", hint=hint)


def _verbs_with(option: str, context: Any) -> list[str]:
    """The other verbs that have an option of this spelling, in the order of help."""
    if context is None:
        return []
    verbs = getattr(context.find_root().command, "commands", {})
    return [
        name
        for name, verb in verbs.items()
        if any(option in one.opts for one in verb.get_params(context))
    ]


def _in_a_recipe(option: str, known: Sequence[str]) -> str:
    """Where a recipe has what the option of other verbs sets, for a verb that takes a recipe."""
    from diffc.cli.flags import FLAGS

    paths = [flag.path for flag in FLAGS.values() if flag.path and option == flag.spelling]
    if "--recipe" not in known or len(set(paths)) != 1:
        return ""
    return f"; a recipe has it as {paths[0]}"


def _of_option(error: Any) -> str:
    """An option without its value, or a switch with one."""
    if "requires" in error.message:
        return f"{error.option_name} needs a value"
    return f"{error.option_name} is a switch: it takes no value"


def _extra_argument(context: Any, path: str, message: str) -> RequestError:
    extra = message.rpartition("(")[2].rstrip(")") or "an argument"
    hint = _EXTRA_ARGUMENT.get(_verb(path))
    first = extra.split()[0]
    return RequestError(
        f"{_verb(path)} takes nothing more: {extra}",
        hint=hint.format(first) if hint else _usage(context, path),
    )


def _verb(path: str) -> str:
    """The verb without the program's name, which every error begins with."""
    return path.partition(" ")[2] or path


def check_values(args: Sequence[str], parameters: Sequence[Any]) -> None:
    """Refuse an option whose value was forgotten, so that the next option would be its value.

    Args:
        args: What follows the verb.
        parameters: The verb's.

    Raises:
        RequestError: An option stands where a value has to be.
    """
    options = [one for one in parameters if one.param_type_name == "option"]
    spellings = {name for one in options for name in (*one.opts, *one.secondary_opts)}
    valued = {name for one in options if not one.is_flag for name in one.opts}
    for word, following in pairwise(args):
        if word == "--":
            return
        if word in valued and following.partition("=")[0] in spellings:
            raise RequestError(
                f"{word} needs a value", hint=f"{following} follows it, which is an option"
            )


def _spellings(context: Any) -> list[str]:
    return [spelling for param in _parameters(context) for spelling in param.opts]


def _parameters(context: Any) -> list[Any]:
    return [] if context is None else list(context.command.get_params(context))


def _usage(context: Any, path: str) -> str:
    """How the verb is typed, and where its help is."""
    if context is None:
        return f"see {path} -h"
    usage = " ".join(context.command.collect_usage_pieces(context)).replace("[OPTIONS] ", "")
    required = [
        _spelling(one)
        for one in _parameters(context)
        if one.param_type_name == "option" and one.required
    ]
    words = " ".join(filter(None, [path, usage, *required]))
    return f"such as: {words}; {path} -h says more"


def _spelling(param: Any) -> str:
    """``--to FOLDER``; an argument's name."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    longest = max(param.opts, key=len)
    return f"{longest} {param.metavar}" if param.metavar else longest


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")
