"""Samples that ``diffc eval`` judged otherwise than the run: other images, metrics or steps."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.quality import metrics_of
from diffc.report.blocks import Notes, Table
from diffc.report.model import Evaluation, Report
from diffc.report.quality_rows import quality_rows, reference_note, settings_words
from diffc.report.sections import Section


def _build(report: Report) -> Iterator[Table | Notes]:
    for evaluation in report.evaluations:
        yield from evaluation_blocks(evaluation)


def evaluation_blocks(evaluation: Evaluation) -> Iterator[Table | Notes]:
    """The figures of one evaluation, and how its samples were made."""
    quality = evaluation.quality or {}
    metrics = metrics_of(quality)
    figure = next((quality[one.name] for one in metrics if quality[one.name]), None)
    absent: dict[str, str] = quality.get("absent", {})
    folder = f"evals/{evaluation.name.partition('-')[2]}" if "-" in evaluation.name else "samples"
    yield Table(list(quality_rows(quality)))
    notes = [f"{settings_words(figure)}; OUT/{folder} has the pictures"] if figure else []
    notes += [absent[one.name] for one in metrics if one.name in absent]
    notes += [one.note for one in metrics if one.note and quality[one.name]]
    notes += [reference_note(quality[one.name]) for one in metrics]
    yield Notes([note for note in dict.fromkeys(notes) if note])


SECTION = Section("Judged in other ways", 25, _build)
