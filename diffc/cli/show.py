"""Shows a run: progress and notes on stderr, then the answer on stdout, as tables or as JSON."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from diffc.cli.progress import follow_live, follow_plainly
from diffc.cli.stdout import answer_stream, stream_columns
from diffc_export import events

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from diffc.report.model import Evaluation, Report
    from diffc.runner import StageEvent
    from diffc_export.events import Work

T = TypeVar("T")


def answers() -> Console:
    """The console on stdout: what the verb was asked for, which can be piped."""
    stream = answer_stream()
    return _console(file=stream, width=stream_columns(stream))


def write_answer(text: object) -> None:
    """Print a text on stdout, as it is: JSON, or the name of a file."""
    print(text, file=answer_stream())


def messages() -> Console:
    """The console on stderr: progress and notes."""
    return _console(stderr=True)


def _console(**options: Any) -> Console:
    """A console that sends no codes at all where NO_COLOR or TERM=dumb asks for none."""
    from rich.console import Console

    system = None if _is_plain() else "auto"
    return Console(highlight=False, emoji=False, color_system=system, **options)  # type: ignore[arg-type]


def _is_plain() -> bool:
    """True for a terminal that shall get text alone (no-color.org)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")


def follow(work: Generator[StageEvent, None, T], *, quiet: bool) -> T:
    """Run ``work`` to its end, show each stage, and return the result."""
    if quiet or _is_follower():
        return events.drain(work)
    screen = messages()
    if not screen.is_terminal or _is_plain():
        return follow_plainly(work, screen)
    return follow_live(work, screen)


def follow_measuring(work: Work[T], *, quiet: bool) -> T:
    """Run work outside the stages to its end, and show what it does."""
    screen = messages()
    if quiet:
        return events.drain(work)
    if not screen.is_terminal or _is_plain():
        return _follow_notes(work, screen)
    with screen.status("measuring") as status:
        return events.follow(work, lambda event: status.update(_measured_so_far(event)))


def _measured_so_far(event: events.Progress) -> str:
    """'3 of 10: latency, ort-cpu fp32 batch 1  40 of at most 320'."""
    words = event.note or "measuring"
    if event.total is None:
        return words if not event.done else f"{words}  {event.done:.0f}"
    return f"{words}  {event.done:.0f} of at most {event.total:.0f}"


def _follow_notes(work: Work[T], screen: Console) -> T:
    """Show one line for each new note, for logs."""
    last = ""

    def show(event: events.Progress) -> None:
        nonlocal last
        if event.note != last and " of " in event.note:
            screen.print(f"  {event.note}", markup=False, soft_wrap=True)
            last = event.note

    return events.follow(work, show)


def show_report(report: Report, *, json: bool, quiet: bool) -> None:
    """Print the report on stdout, as JSON or as tables."""
    if _is_follower():
        return
    if json:
        write_answer(report.model_dump_json(indent=1))
    elif not quiet:
        from diffc.report.terminal import show

        show(report, answers())


def show_evaluation(evaluation: Evaluation, out: Path, *, json: bool, quiet: bool) -> None:
    """Print the figures of one evaluation on stdout, as JSON or as a table."""
    from diffc.report.sections.evaluations import evaluation_blocks
    from diffc.report.terminal import show_blocks

    if _is_follower():
        return
    if json:
        print_json({"folder": str(out), **evaluation.model_dump(mode="json")})
    elif not quiet:
        show_blocks(list(evaluation_blocks(evaluation)), answers())


def print_json(value: object) -> None:
    """Print one JSON object on stdout."""
    import json

    write_answer(json.dumps(value, indent=1))


def _is_follower() -> bool:
    """True if another process of the same launch prints for the user."""
    from diffc.launch import process_rank

    return process_rank() > 0
