"""The loss step by step, and the quality on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diffc.report import svg
from diffc.report.blocks import Block, Chart, Details, Notes, Table
from diffc.report.model import Report
from diffc.report.records import DistillRecord
from diffc.report.sections import Section

_LOSS = "the distillation loss by step; its points are in the table"
_SSIM = "SSIM to the dense model by distillation step; its points are in the table"
_SSIM_WORDS = "samples of the moving average beside the dense model's, few and with few steps"


def _build(report: Report) -> Iterator[Notes | Details]:
    if report.distillation:
        yield from _training(report.distillation, "the loss")
    loops = report.loop_distillation
    if loops:
        names = ", ".join(loops.get("loops") or ())
        words = f"then the student learned the loop it serves: {names}"
        scale = loops.get("guidance") or 1.0
        if scale != 1:
            words += f"; it carries a guidance of {scale:g} with one call a step"
        yield Notes([words])
        yield from _training(loops, "the loss of the loop")


def _training(record: DistillRecord, title: str) -> Iterator[Notes | Details]:
    yield Notes([str(note) for note in record.get("notes") or ()])
    points = [(float(step), float(loss)) for step, loss in record.get("losses") or ()]
    if not points:
        return
    words = f"{record['steps']} steps"
    rate = record.get("images_per_second")
    if isinstance(rate, int | float):
        words += f", {rate:.3g} images per second in {record['precision']}"
    picture = svg.line(points, x_name="step", y_name="loss", log=True, label=_LOSS)
    rows = [(f"{step:g}", f"{loss:.4g}") for step, loss in points]
    chart = Chart(picture, Table(rows, ("step", "loss")))
    yield Details(title, [Notes([words]), chart, *_quality(record)], unfolded=True)


def _quality(record: DistillRecord) -> Iterator[Block]:
    """SSIM to the dense model while it was distilled."""
    points = [
        (float(point["step"]), ssim)
        for point in (record.get("quality") or ())
        if (ssim := point["ssim"]) is not None and math.isfinite(ssim)
    ]
    if len(points) < 2:
        return
    picture = svg.line(points, x_name="step", y_name="SSIM to the dense model", label=_SSIM)
    rows = [(f"{step:g}", f"{ssim:.3f}") for step, ssim in points]
    yield Notes([_SSIM_WORDS])
    yield Chart(picture, Table(rows, ("step", "SSIM")))


SECTION = Section("Distillation", 120, _build)
