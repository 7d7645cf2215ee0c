"""Writes a report and its pages into an output folder."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic_core import PydanticSerializationError

from diffc.models.components import CARD
from diffc.models.source import PRUNING_FILE
from diffc.report.model import Report
from diffc_runtime.files import path_text, write_text

PAGES = ("report.md", "report.html")


def write_report(report: Report, out: Path) -> Report:
    """Write report.json, report.md, report.html and the model's card.

    The files of a run with nothing to do stay as they are: drawing them is most of its time.

    Args:
        report: What was measured.
        out: The output folder.

    Returns:
        The report that the folder has: the same content has the time of its first writing.
    """
    path, report = out / "report.json", _as_text(report)
    written = _time_of_writing(path, report)
    if written is not None:
        return report.model_copy(update={"created": written})
    from diffc.report.card import write_card
    from diffc.report.html import write_html
    from diffc.report.markdown import to_markdown

    write_card(report, out)
    write_text(out / "report.md", to_markdown(report))
    write_html(report, out)
    # last: pages that are newer than the report are of a run that was killed here
    write_text(path, report.model_dump_json(indent=1) + "\n")
    return report


def _as_text(report: Report) -> Report:
    """Return a report that JSON takes: names on a disk, in it, may be bytes that are no text."""
    try:
        report.model_dump_json()
    except PydanticSerializationError:
        return Report.model_validate(_texts(report.model_dump()))
    return report


def _texts(value: object) -> object:
    if isinstance(value, dict):
        return {_texts(key): _texts(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(one) for one in value]
    return path_text(value) if isinstance(value, str) else value


def _time_of_writing(path: Path, report: Report) -> str | None:
    """When this very report was written, where its pages are there and no newer; else None."""
    pages = [path.with_name(name) for name in PAGES]
    if (path.parent / "model" / PRUNING_FILE).is_file():
        pages.append(path.parent / "model" / CARD)
    try:
        when = path.stat().st_mtime_ns
        if any(page.stat().st_mtime_ns > when for page in pages):
            return None
        old = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    new = json.loads(report.model_dump_json())
    created = old.get("created") if isinstance(old, dict) else None
    return created if isinstance(created, str) and {**new, "created": created} == old else None
