"""What clients of an inference server see, dense beside compressed, as rows for every rendering."""

from __future__ import annotations

from collections.abc import Sequence

from diffc.measure.results import Served, ServedLevel
from diffc.report.speed import loop_words
from diffc.report.units import milliseconds

Row = tuple[str, str, str, str]


def by_target(results: Sequence[Served]) -> dict[str, dict[str, Served]]:
    """target -> side -> what was measured."""
    found: dict[str, dict[str, Served]] = {}
    for result in results:
        found.setdefault(result.target, {})[result.side] = result
    return found


def rows(sides: dict[str, Served]) -> list[Row]:
    """(what, dense, compressed, change) of one target."""
    both = [sides.get("dense"), sides.get("compressed")]
    made = [_row("an image in process", [s.in_process_ms if s else None for s in both])]
    counts = sorted({level.concurrency for s in both if s for level in s.levels})
    for count in counts:
        levels = [_level(s, count) for s in both]
        clients = "1 client" if count == 1 else f"{count} clients"
        p50 = [v.latency_ms.p50 if v and v.latency_ms else None for v in levels]
        made.append(_row(f"{clients}: latency, p50", p50))
        rates = [v.throughput_per_s if v else None for v in levels]
        made.append((f"{clients}: images per second", *_shown(rates), _times(rates[::-1])))
    over = _shown([s.overhead if s else None for s in both])
    made.append(("server over in process, 1 client", *over, ""))
    return made


def notes(sides: dict[str, Served]) -> list[str]:
    """What was left out, and how it was measured."""
    absent = {s.absent for s in sides.values() if s.absent}
    said = [f"not measured: {reason}" for reason in sorted(absent)]
    clients = {s.client for s in sides.values() if s.client}
    errors = sum(level.errors for s in sides.values() for level in s.levels)
    if clients:
        said.append(f"timed by {', '.join(sorted(clients))}, one image a request; {errors} errors")
    return said


def title(target: str, sides: dict[str, Served]) -> str:
    """Names the server, the target and what an image is made with."""
    one = next(iter(sides.values()))
    words = loop_words(one.model_dump(include={"steps", "sampler", "guidance", "decoded"}))
    return f"through {one.server.capitalize()} on {target}, {words}"


def _level(result: Served | None, concurrency: int) -> ServedLevel | None:
    levels = result.levels if result else []
    return next((level for level in levels if level.concurrency == concurrency), None)


def _row(what: str, values: Sequence[float | None]) -> Row:
    shown = [milliseconds(v) if v is not None else "-" for v in values]
    return (what, shown[0], shown[1], _times(values))


def _shown(values: Sequence[float | None]) -> tuple[str, str]:
    first, second = (f"{v:.2f}" if v is not None else "-" for v in values)
    return first, second


def _times(values: Sequence[float | None]) -> str:
    """How many times the first is of the second."""
    first, second = values
    return f"{first / second:.2f}x as fast" if first and second else ""
