"""What a person sees while stages run: a line for each that is done, and how far the run is."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, TypeVar

from diffc_export import events

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, Task, TaskID

    from diffc.runner import StageEvent
    from diffc_export.events import Progress as Step

T = TypeVar("T")
_TRUSTED = 0.1
"""From this share of a stage on, its own speed tells its end better than an earlier run does."""


class Overall:
    """Where the run is among its stages, and when it will be done.

    Both come from an earlier run of the same kind on this machine (diffc/durations.py); without
    one there is neither.
    """

    def __init__(self) -> None:
        self._expected: Mapping[str, float] = {}
        self._number = 0
        self._stage = ""
        self._started = 0.0
        self._share = 0.0
        self._done: set[str] = set()

    def note(self, event: StageEvent) -> None:
        """Take in an event of the run."""
        if event.kind == "passed":  # the checks before the first stage
            self._expected, self._number = event.expected, 0
        elif event.kind == "started":
            self._number += 1
            self._stage, self._share, self._started = event.stage, 0.0, time.monotonic()
        elif event.progress is not None:
            self._share = _share(event.progress)
        elif event.done is not None:
            self._done.add(event.stage)

    @property
    def place(self) -> str:
        """'stage 5 of 13'; empty where the number of stages is not known."""
        if not self._expected:
            return ""
        return f"stage {self._number} of {max(len(self._expected), self._number)}"

    @property
    def left(self) -> str:
        """'about 9 min left'; empty where a stage that is left was not measured before."""
        seconds = self.seconds_left()
        return "" if seconds is None else left_words(seconds)

    def seconds_left(self) -> float | None:
        """The time of this stage's rest and of the stages after it; None where one is unknown."""
        if self._stage not in self._expected:
            return None
        own, used = self._expected[self._stage], time.monotonic() - self._started
        if self._share >= _TRUSTED:
            rest = used / self._share * (1 - self._share)
        else:
            rest = max(own - used, 0.0)
        later = set(self._expected) - self._done - {self._stage}
        return rest + sum(self._expected[name] for name in later)


def left_words(seconds: float) -> str:
    """'about 40 s left', 'about 9 min left', 'about 2 h 10 min left'."""
    if seconds < 90:
        return f"about {max(10, round(seconds / 10) * 10)} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60 // 10 * 10:02d} min left"


def _share(step: Step) -> float:
    return min(step.done / step.total, 1.0) if step.total else 0.0


def follow_plainly(work: Generator[StageEvent, None, T], screen: Console) -> T:
    """Show one line per stage, for logs, and once where the run is when its work begins."""
    overall, is_placed = Overall(), False

    def show(event: StageEvent) -> None:
        nonlocal is_placed
        overall.note(event)
        if event.done is not None:
            screen.print(stage_line(event), soft_wrap=True)
        elif event.kind in ("note", "heading"):
            screen.print(_words(event))
        elif event.progress is not None and not is_placed:
            is_placed = True
            if overall.left:
                words = f"  {overall.place}, {overall.left}, by an earlier run"
                screen.print(words, soft_wrap=True)

    return events.follow(work, show)


def follow_live(work: Generator[StageEvent, None, T], screen: Console) -> T:
    """Show a bar for the stage that runs, and below it where the run is."""
    with _progress(screen) as progress:
        task: TaskID | None = None
        overall, total = (
            Overall(),
            progress.add_task("", total=None, note="", whole=True, visible=False),
        )

        def show(event: StageEvent) -> None:
            nonlocal task
            overall.note(event)
            task = _update_progress(event, progress, task)
            shown = task is not None and bool(overall.place)
            progress.update(total, description=overall.place, note=overall.left, visible=shown)

        return events.follow(work, show)


def _progress(screen: Console) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class OfStage(ProgressColumn):
        """A column that the line of the whole run does not have."""

        def __init__(self, column: ProgressColumn) -> None:
            super().__init__()
            self._column = column

        def render(self, task: Task) -> RenderableType:
            return "" if task.fields.get("whole") else self._column.render(task)

    left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
    return Progress(
        TextColumn("{task.description:<25}"),
        OfStage(BarColumn(bar_width=14)),
        OfStage(left),
        TextColumn("{task.fields[note]}", style="dim"),
        console=screen,
        transient=True,
    )


def _update_progress(event: StageEvent, progress: Progress, task: TaskID | None) -> TaskID | None:
    """Show an event; return the bar of the stage that runs after it."""
    if event.kind == "started":
        return progress.add_task(event.stage, total=None, note="")
    if event.progress is not None and task is not None:
        step = event.progress
        values = "  ".join(f"{name} {value:.4g}" for name, value in step.values.items())
        note = "  ".join(part for part in (step.note, values) if part)
        progress.update(task, completed=step.done, total=step.total, note=shortened(note))
        return task
    if event.kind in ("note", "heading"):
        progress.console.print(_words(event))
        return task
    if task is not None:
        progress.remove_task(task)
    if event.done is not None:
        progress.console.print(stage_line(event), soft_wrap=True)
    return None


def _words(event: StageEvent) -> str:
    from rich.markup import escape

    if event.kind == "heading":
        return f"[bold]{escape(event.note)}[/bold]"
    return f"  note: {escape(event.note)}"


def shortened(note: str, most: int = 30) -> str:
    """``note`` in at most ``most`` characters, without cutting a word: half a figure misleads."""
    import textwrap

    return textwrap.shorten(note, most, placeholder=" ...") if len(note) > most else note


def stage_line(event: StageEvent) -> str:
    """A stage that is done, and how long it took."""
    from diffc.report.units import seconds

    assert event.done is not None
    if event.kind == "reused":
        return f"  [dim]{event.stage:<25} reused[/dim]"
    return f"  {event.stage:<25} {seconds(event.done.seconds):>12}"
