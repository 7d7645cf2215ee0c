"""Samples of both models from the same noise: the pictures, how close they are, and the scale.

Each metric (diffc/measure/quality) states the title and the digits of its figure. Anchors
(diffc/measure/anchors.py) are the dense model's own samples, judged in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure import sheets
from diffc.measure.anchors import Anchor, Anchors
from diffc.measure.quality import metrics_of
from diffc.report.blocks import Images, Notes, Table
from diffc.report.loops import both_loops, judged_loop
from diffc.report.model import Report
from diffc.report.quality_rows import Row, quality_rows, reference_note, settings_words
from diffc.report.sections import Section
from diffc.report.units import interval, number
from diffc.report.verdict import ssim_of

_WORST = 3
"""Images that are named as the worst."""
_PROMPT = 60
"""Characters of a prompt in a table; a longer one ends with a mark."""


def _build(report: Report) -> Iterator[Images | Table | Notes]:
    quality = report.quality or {}
    figure = judged_loop(report)
    yield Images(
        "samples/dense.png",
        "samples/compressed.png",
        "samples/grid.png",
        "Both models from the same noise",
        both_loops(figure) if figure else "",
        list(_captions(report)),
    )
    if quality:
        yield Table([*quality_rows(quality), *_anchor_rows(report.anchors)])
        yield Table(list(_worst_rows(report)), ("furthest from dense", "SSIM"))
        yield Notes(_notes(report))


def _anchor_rows(several: Sequence[Anchors]) -> Iterator[Row]:
    """SSIM of the dense model's own samples. What no target's time decides stands once."""
    for anchors in several:
        row = anchors.row("same-time")
        if row is not None:
            on = f" on {anchors.target}" if len(several) > 1 else ""
            yield _anchor_row(f"SSIM, dense in the same time{on}: {_steps(row)}", row)
    for kind, words in (("fewer-steps", "dense with {}"), ("other-seed", "dense from other noise")):
        rows = [row for anchors in several for row in anchors.rows if row.kind == kind]
        if rows:
            yield _anchor_row(f"SSIM, {words.format(_steps(rows[0]))}", rows[0])


def _anchor_row(words: str, row: Anchor) -> Row:
    within = f"95 % {interval(row.ssim.ci95, 3)}" if row.ssim.ci95 else "one image"
    return words, number(row.ssim.mean, 3), "", within


def _steps(row: Anchor) -> str:
    return f"{row.steps} step{'' if row.steps == 1 else 's'}"


def _worst_rows(report: Report) -> Iterator[tuple[str, str]]:
    """The images that are furthest from the dense model's, by their prompts where there are any."""
    each = (ssim_of(report) or {}).get("each") or []
    prompts = (report.quality or {}).get("prompts") or []
    known = [(value, index) for index, value in enumerate(each) if value is not None]
    if len(known) < 2:
        return
    for value, index in sorted(known)[:_WORST]:
        prompt = f": {_shortened(str(prompts[index]))}" if index < len(prompts) else ""
        yield f"image {index + 1}{prompt}", number(value, 3)


def _captions(report: Report) -> Iterator[list[str]]:
    """What stands below each picture: its SSIM and its prompt, where they are known."""
    figure, prompts = judged_loop(report), (report.quality or {}).get("prompts") or []
    each = (ssim_of(report) or {}).get("each") or []
    for index in range(sheets.image_count(int(figure["n"])) if figure else 0):
        value = each[index] if index < len(each) else None
        figures = [] if value is None else [f"SSIM {number(value, 3)}"]
        yield [*figures, *(str(prompt) for prompt in prompts[index : index + 1])]


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _PROMPT else f"{prompt[: _PROMPT - 3].rstrip()}..."


def _notes(report: Report) -> list[str]:
    """How the images were made, why a figure is left out, and how to read the others."""
    quality, figure = report.quality or {}, judged_loop(report)
    metrics = metrics_of(quality)
    absent: dict[str, str] = quality.get("absent", {})
    notes = [settings_words(figure)] if figure else []
    notes += [absent[metric.name] for metric in metrics if metric.name in absent]
    notes += [metric.note for metric in metrics if metric.note and quality[metric.name]]
    notes += [reference_note(quality[metric.name]) for metric in metrics]
    notes += [anchors.absent for anchors in report.anchors if anchors.absent]
    if any(anchors.rows for anchors in report.anchors):
        notes += [_cost(report)]
    return [note for note in dict.fromkeys(notes) if note]


def _cost(report: Report) -> str:
    """What the dense model's own samples are, and what they cost."""
    seconds = sum(stage.seconds for stage in report.stages if stage.name.startswith("anchors-"))
    n = max(row.n for anchors in report.anchors for row in anchors.rows)
    return (
        "the dense model's own rows are SSIM to its images with all steps, of "
        f"{n} images at most; they took {seconds:.0f} s"
    )


SECTION = Section("Compressed against dense samples", 20, _build)
