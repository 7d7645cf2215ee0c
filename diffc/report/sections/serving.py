"""The sampling loop through an inference server, dense beside compressed, per target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from diffc.measure.results import Served, ServedLevel
from diffc.report.blocks import Notes, Part, Table
from diffc.report.loops import loop_words
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import factor, milliseconds

Row = tuple[str, str, str, str]
Sides = Mapping[str, Served]


def _build(report: Report) -> Iterator[Part]:
    for target, sides in by_target(report.served).items():
        yield Part(_title(target, sides), [Table(rows(sides)), Notes(notes(sides))])


def by_target(results: Sequence[Served]) -> dict[str, dict[str, Served]]:
    """Return target -> side -> what was measured."""
    targets: dict[str, dict[str, Served]] = {}
    for result in results:
        targets.setdefault(result.target, {})[result.side] = result
    return targets


def rows(sides: Sides) -> list[Row]:
    """Return (what, dense, compressed, change) of one target."""
    both = [sides.get("dense"), sides.get("compressed")]
    table = [_time_row("an image in process", [s.in_process_ms if s else None for s in both])]
    for count in sorted({level.concurrency for s in both if s for level in s.levels}):
        levels = [_level(s, count) for s in both]
        clients = "1 client" if count == 1 else f"{count} clients"
        p50 = [v.latency_ms.p50 if v and v.latency_ms else None for v in levels]
        table.append(_time_row(f"{clients}: latency, p50", p50))
        rates = [v.throughput_per_s if v else None for v in levels]
        words = (f"{clients}: images per second", *_two_digits(rates), _times(rates[::-1]))
        table.append(words)
    over = _two_digits([s.overhead if s else None for s in both])
    return [*table, ("server over in process, 1 client", *over, "")]


def notes(sides: Sides) -> list[str]:
    """Return what was left out, and how it was measured."""
    absent = {s.absent for s in sides.values() if s.absent}
    sentences = [f"not measured: {reason}" for reason in sorted(absent)]
    clients = {s.client for s in sides.values() if s.client}
    errors = sum(level.errors for s in sides.values() for level in s.levels)
    if clients:
        by = ", ".join(sorted(clients))
        sentences.append(f"timed by {by}, one image a request; {errors} errors")
    return sentences


def _title(target: str, sides: Sides) -> str:
    """The server, the target and what an image is made with."""
    one, *others = sides.values()
    words = _loop(one)
    if any(_loop(other) != words for other in others):
        words = ", ".join(f"{side} ({_loop(result)})" for side, result in sides.items())
    return f"Through {one.server.capitalize()} on {target}, {words}"


def _loop(one: Served) -> str:
    return loop_words(one.model_dump(include={"steps", "sampler", "guidance", "decoded"}))


def _level(result: Served | None, concurrency: int) -> ServedLevel | None:
    levels = result.levels if result else []
    return next((level for level in levels if level.concurrency == concurrency), None)


def _time_row(what: str, values: Sequence[float | None]) -> Row:
    dense, compressed = (milliseconds(value) for value in values)
    return what, dense, compressed, _times(values)


def _two_digits(values: Sequence[float | None]) -> tuple[str, str]:
    dense, compressed = (f"{v:.2f}" if v is not None else "-" for v in values)
    return dense, compressed


def _times(values: Sequence[float | None]) -> str:
    """How many times the first is of the second."""
    first, second = values
    return f"{factor(first / second)} as fast" if first and second else ""


SECTION = Section("Through an inference server", 80, _build)
