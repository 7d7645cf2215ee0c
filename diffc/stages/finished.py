"""A finished run in OUT, and a compile that asks for another one there.

OUT/.diffc/request.json holds what the finished run was asked for. The same request goes on there;
another one is refused, or replaces the run once it is whole: until then it works in
``OUT/.diffc/next``, and OUT keeps every file of the old run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from diffc.errors import RequestError
from diffc.models.source import Source
from diffc.output import base_digest, is_output, read_lock
from diffc.recipe import Recipe, validate
from diffc.recipe.sections.training import OF_MEMORY
from diffc.stage_records import STATE
from diffc_runtime.files import write_text
from diffc_runtime.json_types import JsonDict

Over = Literal["goes on", "asks", "replaces"]
"""What a run does where OUT holds a finished run of another request: it does stages of that run
again, it is refused, or it replaces the whole run."""

REQUEST = f"{STATE}/request.json"
NEXT = f"{STATE}/next"
_SHOWN = 2


def replaces_finished(source: Source, recipe: Recipe, out: Path, over: Over) -> bool:
    """True where a finished run of another request is to be replaced.

    Raises:
        RequestError: There is one, and ``over`` is ``asks``; the message says what differs.
    """
    if over == "goes on" or not _is_of(out, source):
        return False
    changes = _changes(out, recipe)
    if changes and over == "asks":
        more = len(changes) - _SHOWN
        words = "; ".join(changes[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise RequestError(
            f"{out} holds a finished run of another request: {words}",
            hint="give another --out, or --force to replace that run once the new one is whole",
        )
    return bool(changes)


def keep_request(out: Path, recipe: Recipe, over: Over) -> None:
    """Store what the run that OUT holds now was asked for."""
    if over != "goes on":
        write_text(out / REQUEST, json.dumps(_outcome_options(recipe), indent=1) + "\n")
    elif _kept(out) not in (
        None,
        _outcome_options(recipe),
    ):  # a stage was done again with other options
        (out / REQUEST).unlink()


def _is_of(out: Path, source: Source) -> bool:
    """True where OUT holds a finished run of this model; one of another model is refused anyway."""
    if not is_output(out):
        return False
    lock = read_lock(out)
    return bool(lock["stages"]) and base_digest(lock) == source.base.digest


def is_run_of(out: Path, recipe: Recipe) -> bool:
    """Whether the finished run in OUT is one of these options, but for those of memory."""
    return not _changes(out, recipe)


def _changes(out: Path, recipe: Recipe) -> list[str]:
    """In words, what ``recipe`` asks otherwise than the finished run; [] where it is the same."""
    now = _outcome_options(recipe)
    locked = _in_todays_options(read_lock(out)["recipe"], out)
    kept = _kept(out) or locked
    if now in (kept, locked):  # locked: ``build`` and ``bench`` have added to it
        return []
    return list(_differences(kept, now))


def _outcome_options(recipe: Recipe) -> JsonDict:
    """What decides a run's outcome; what the gate allows and how memory is used do not."""
    options = recipe.model_dump(mode="json", exclude={"check", "shard", "memory"})
    options["data"].pop("batch")  # --memory chooses it too
    for section in (options["distill"], options["distill"]["loop"], options["prune"]["importance"]):
        for name in OF_MEMORY:
            section.pop(name, None)
    return options


def _kept(out: Path) -> JsonDict | None:
    try:
        value = json.loads((out / REQUEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return _in_todays_options(value, out) if isinstance(value, dict) else None


def _in_todays_options(options: JsonDict, out: Path) -> JsonDict:
    """An older run's options: those that diffc has got since have their defaults.

    Options that no recipe of today may have stay as they are, and are another request.
    """
    try:
        return _outcome_options(validate(Recipe, options, str(out)))
    except RequestError:
        return options


def _differences(before: object, now: object, key: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in now:
            yield from _differences(before.get(name), now[name], f"{key}.{name}".lstrip("."))
    elif before != now:
        yield f"{key} {_word(before)}, now {_word(now)}"


def _word(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
