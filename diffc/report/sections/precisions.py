"""The precision of each target that was to choose one by measuring, and what it chose from."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.results import PrecisionChoice, PrecisionTry
from diffc.report.blocks import Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import factor, milliseconds


def _build(report: Report) -> Iterator[Part]:
    for choice in report.choices:
        blocks = [Table(list(_rows(choice)), ("", "p50", "than fp32", "SSIM"))]
        title = f"Precision on {choice.target}, batch {choice.batch}, chosen by measuring"
        yield Part(title, [*blocks, Notes(list(_notes(choice)))])


def _rows(choice: PrecisionChoice) -> Iterator[tuple[str, str, str, str]]:
    for one in choice.tries:
        if one.latency_ms is not None and one.over_fp32 is not None:
            taken = " (taken)" if one.precision == choice.chosen else ""
            time = milliseconds(one.latency_ms.p50)
            yield f"compressed, {one.precision}{taken}", time, _over_fp32(one), _closeness(one)


def _over_fp32(one: PrecisionTry) -> str:
    if one.precision == "fp32" or one.over_fp32 is None:
        return ""
    faster = factor(one.over_fp32.median)
    return f"{faster} as fast" if one.over_fp32.is_shown else f"{faster}, not shown"


def _closeness(one: PrecisionTry) -> str:
    figure = one.ssim.get("compressed")
    return "" if figure is None else f"{figure.mean:.4f}, least {figure.least:.4f}"


def _notes(choice: PrecisionChoice) -> Iterator[str]:
    yield f"{choice.chosen} is taken: the fastest that passes parity on both sides"
    for one in choice.tries:
        if one.latency_ms is None or one.over_fp32 is None:
            yield f"{one.precision} cannot be used: {one.absent}"
            continue
        for side, parity in one.parity.items():
            if not parity.passed:
                yield f"{one.precision} fails parity ({side}): {parity.reason}"
    figures = [figure for one in choice.tries for figure in one.ssim.values()]
    if figures:
        n, steps = figures[0].n, figures[0].steps
        yield f"SSIM to the fp32 engine's images: {n} trajectories, {steps} steps"


SECTION = Section("Precision, chosen by measuring", 70, _build)
