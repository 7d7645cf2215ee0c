"""Whole images on each target: the sampling loop with all that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.results import TargetResult
from diffc.report import speed
from diffc.report.blocks import Block, Notes, Part, Table
from diffc.report.loops import image_words
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.sections.timings import distribution, how_measured, parity_note, time_rows
from diffc.report.units import cost_of_thousand, rate


def _build(report: Report) -> Iterator[Part]:
    for result in shown_loops(report):
        words = image_words(result)
        title = f"{words[:1].upper()}{words[1:]} on {result.target}, {result.precision}"
        yield Part(title, list(_blocks(result, report.price_per_hour)))


def shown_loops(report: Report) -> list[TargetResult]:
    """The results of the loop, without those whose reason a step's result already gives."""
    reasons = {(result.target, result.absent) for result in report.targets}
    return [r for r in report.pipeline if not r.absent or (r.target, r.absent) not in reasons]


def _blocks(result: TargetResult, price_per_hour: float | None) -> Iterator[Block]:
    what = "one image" if result.batch == 1 else f"{result.batch} images"
    if rows := time_rows(result, what):
        rates = [speed.images_per_s(side) for side in (result.dense, result.compressed)]
        rows.append(("images per second", rate(rates[0]), rate(rates[1]), ""))
        if price_per_hour is not None:
            costs = [cost_of_thousand(price_per_hour, images) for images in rates]
            rows.append((f"1,000 images at {price_per_hour:g}/h", costs[0], costs[1], ""))
        yield Table(rows)
    yield from distribution(result)
    yield Notes([*speed.loop_notes(result), *_measured_notes(result)])
    if not result.absent:
        yield how_measured(result)


def _measured_notes(result: TargetResult) -> Iterator[str]:
    if not result.absent:
        yield from parity_note(result)
        if result.noise is not None:
            yield speed.noise_words(result.noise)


SECTION = Section("Whole images", 10, _build)
