"""Options of older recipes, locks and output folders, in today's words.

Before a loop was one thing, three options had steps: of the judged samples, of the timed loop, and
of the loop that ``diffc check`` times.
"""

from __future__ import annotations

from collections.abc import Mapping

_JUDGED, _TIMED, _CHECKED = 50, 20, 10
"""The older defaults of these options."""


def without_older(options: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return a recipe's options as they are written today, and a note for each that was set."""
    now, notes = dict(options), list[str]()
    judged = _taken(now, "quality", "steps")
    timed, checked = (_taken(now, section, "loop_steps") for section in ("measure", "check"))
    if judged not in (None, _JUDGED) and now.get("reference_loop") is None:
        now["reference_loop"] = f"deterministic:{judged}"
        notes.append(f"quality.steps is read as reference_loop: deterministic:{judged}")
    if timed not in (None, _TIMED):
        notes.append("measure.loop_steps has no effect: the loop that is judged is timed (--loop)")
    if checked == 0:
        now["check"] = {**_section(now, "check"), "time_loop": False}
    elif checked not in (None, _CHECKED):
        notes.append("check.loop_steps has no effect: the run's own loop is timed")
    return now, notes


def _section(options: Mapping[str, object], name: str) -> dict[str, object]:
    section = options.get(name)
    return dict(section) if isinstance(section, Mapping) else {}


def _taken(options: dict[str, object], section: str, name: str) -> object:
    """Take an option out of its section; None where it is not there."""
    inner = _section(options, section)
    if name not in inner:
        return None
    value = inner.pop(name)
    options[section] = inner
    return value
