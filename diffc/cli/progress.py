"""What a person sees while stages run: a line for each that is done, and how far the run is."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from diffc_export import events

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, Task, TaskID

    from diffc.runner import Needs, StageEvent
    from diffc_export.events import Progress as Step

T = TypeVar("T")
_TRUSTED = 0.1
"""From this share of a stage on, its own speed tells its end better than an estimate does."""
_BUSY_THREADS = "Beside them OMP_NUM_THREADS=1 can be faster, since threads wait for each other"
_TELLING_SECONDS = 10.0
"""From so much expected work on, what the stages took tells how fast the later ones will be."""


class Overall:
    """Where the run is among its stages, and when it will be done.

    Both come from an earlier run of the same kind on this machine (diffc/durations.py), or from
    the rate of its calls (diffc/stages/estimate.py); without either there is neither. A rate that
    was taken while other programs ran can be many times too slow: the time left is then told
    by the run's own work alone.
    """

    def __init__(self) -> None:
        self._expected: Mapping[str, float] = {}
        self._by = ""
        self._rough = False
        self._needs: Needs | None = None
        self._announced: tuple[float, float | None] | None = None
        self._number = 0
        self._stage = ""
        self._started = 0.0
        self._share = 0.0
        self._done: set[str] = set()
        self._worked: dict[str, float] = {}

    def note(self, event: StageEvent) -> None:
        """Take in an event of the run."""
        if event.kind == "passed":  # the checks before the first stage
            self._expected, self._number = event.expected, 0
            self._by, self._rough, self._needs = event.by, event.rough, event.needs
        elif event.kind == "started":
            self._number += 1
            self._stage, self._share, self._started = event.stage, 0.0, time.monotonic()
        elif event.progress is not None:
            self._share = _share(event.progress)
        elif event.done is not None:
            self._done.add(event.stage)
            if event.kind == "finished":
                self._worked[event.stage] = time.monotonic() - self._started

    def announcement(self, event: StageEvent) -> str:
        """Once, when work begins: 'stage 2 of 13, about 9 min left (estimated by an earlier run)'.

        Empty at every other event, and where nothing tells it.
        """
        if self._announced or event.progress is None:
            return ""
        seconds = self.seconds_left()
        if seconds is not None:
            words = f"{self.place}, {left_words(seconds)} (estimated by {self._by})"
        elif self._rough and self.place:
            words = f"{self.place}; other programs run, so the time left shows once work is done"
        else:
            return ""
        now = time.monotonic()
        began = self._started - sum(self._worked.values())  # as the stages' own lines count
        self._announced = began, None if seconds is None else now - began + seconds
        threads = [_BUSY_THREADS] if seconds is None and _is_threaded() else []
        return ". ".join([words, *threads, *_needs_words(self._needs, self._done)])

    def outcome(self) -> str:
        """At the end: 'done in 4 min 12 s; the estimate was 3 min 50 s'; '' if nothing was told."""
        from diffc.report.units import seconds

        if self._announced is None:
            return ""
        started, expected = self._announced
        took = time.monotonic() - started
        if expected is None:
            return f"done in {seconds(took)}"
        off = f" ({took / expected - 1:+.0%})" if expected >= 1 else ""
        return f"done in {seconds(took)}; the estimate was {seconds(expected)}{off}"

    @property
    def place(self) -> str:
        """'stage 5 of 13'; empty where the number of stages is not known."""
        if not self._expected:
            return ""
        return f"stage {self._number} of {max(len(self._expected), self._number)}"

    @property
    def left(self) -> str:
        """The time that is left in words; empty where a stage that is left was not measured before.

        An example: 'about 9 min left'.
        """
        seconds = self.seconds_left()
        return "" if seconds is None else left_words(seconds)

    def seconds_left(self) -> float | None:
        """The time of this stage's rest and of the stages after it; None where one is unknown."""
        if self._stage not in self._expected:
            return None
        pace = self._pace()
        if pace is None:
            return None
        own, used = self._expected[self._stage] * pace, time.monotonic() - self._started
        if self._share >= _TRUSTED:
            rest = used / self._share * (1 - self._share)
        else:
            rest = max(own - used, 0.0)
        later = set(self._expected) - self._done - {self._stage}
        return rest + pace * sum(self._expected[name] for name in later)

    def _pace(self) -> float | None:
        """What the work so far took, over what it was expected to take; None: nothing tells it."""
        expected = sum(self._expected.get(name, 0.0) for name in self._worked)
        took = sum(self._worked.values())
        if self._rough and self._share >= _TRUSTED:  # no other speed is known yet
            expected += self._expected[self._stage]
            took += (time.monotonic() - self._started) / self._share
        if expected >= _TELLING_SECONDS:
            return took / expected
        return None if self._rough else 1.0


def left_words(seconds: float) -> str:
    """The time that is left in words: 'about 40 s left', 'about 2 h 10 min left'."""
    return f"{about(seconds)} left"


def about(seconds: float) -> str:
    """A time in words: 'about 40 s', 'about 9 min', 'about 2 h 10 min', 'about 31 h'.

    It is rounded to 10 s below 90 s (at least 'about 10 s'), to minutes below 90 min, to 10 min
    below 20 h, and to hours above.
    """
    if seconds < 90:
        return f"about {max(10, round(seconds / 10) * 10)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    if minutes < 20 * 60:
        return f"about {minutes // 60} h {minutes % 60 // 10 * 10:02d} min"
    return f"about {round(minutes / 60)} h"


def _is_threaded() -> bool:
    """Whether networks run on several threads of the processor, whose number nobody chose."""
    from diffc_runtime.machine.cpu import cores
    from diffc_runtime.machine.gpu import gpus

    return "OMP_NUM_THREADS" not in os.environ and cores() > 1 and not gpus()


def _needs_words(needs: Needs | None, done: Collection[str]) -> Iterator[str]:
    """'Distillation needs about 90 MB of memory, OUT about 73 MB of disk'.

    Nothing is said of a training that was reused before the first work of the run.
    """
    from diffc.report.units import size

    if needs is None:
        return
    disk = f"OUT about {size(needs.disk_bytes)} of disk"
    ahead = [amount for stage, amount in needs.training_bytes.items() if stage not in done]
    if ahead:
        yield f"Distillation needs about {size(max(ahead))} of memory, {disk}"
    else:
        yield disk


def _share(step: Step) -> float:
    return min(step.done / step.total, 1.0) if step.total else 0.0


def follow_plainly(work: Generator[StageEvent, None, T], screen: Console) -> T:
    """Show one line per stage, for logs, and once where the run is when its work begins."""
    overall = Overall()

    def show(event: StageEvent) -> None:
        overall.note(event)
        if event.done is not None:
            screen.print(stage_line(event), soft_wrap=True)
        elif event.kind in ("note", "heading"):
            screen.print(_words(event))
        else:
            _print_words(screen, overall.announcement(event))

    result = events.follow(work, show)
    _print_words(screen, overall.outcome())
    return result


def _print_words(screen: Console, words: str) -> None:
    from diffc.report.tables import print_whole

    if words:
        print_whole(screen, f"  {words}")


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
            _print_words(progress.console, overall.announcement(event))
            task = _update_progress(event, progress, task)
            shown = task is not None and bool(overall.place)
            progress.update(total, description=overall.place, note=overall.left, visible=shown)

        result = events.follow(work, show)
    _print_words(screen, overall.outcome())
    return result


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
        speed_estimate_period=600,  # of large models' steps, few are done in a minute
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
