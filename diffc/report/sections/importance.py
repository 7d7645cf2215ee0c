"""Importance: L_t / L_max, the threshold T, and S, the timesteps that count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.report import svg
from diffc.report.blocks import Chart, Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import percent

_LABEL = "the relative loss by timestep; its points are in the table"


def _build(report: Report) -> Iterator[Details]:
    reasons = report.plan.get("why") if report.plan else None
    why = reasons.get("importance") if reasons else None
    curve = why.get("curve") if why else None
    if not why or not curve:
        return
    points = list(zip(map(float, curve["t"]), map(float, curve["relative_loss"]), strict=True))
    chosen = [(float(low), float(high)) for low, high in why.get("chosen_t") or ()]
    threshold = why.get("threshold")
    timesteps = why.get("timesteps")
    steps, share = (timesteps.get("of"), timesteps.get("share")) if timesteps else (None, None)
    picture = svg.line(
        points,
        x_name="timestep t",
        y_name="L_t / L_max",
        label=_LABEL,
        level=None if threshold is None else (float(threshold), f"T = {threshold:g}"),
        spans=chosen,
        x_range=(0.0, float(steps)) if steps else None,
    )
    rows = [
        (f"{t:g}", f"{loss:.4f}", "yes" if _is_within(t, chosen) else "no") for t, loss in points
    ]
    of_all = f", {percent(share)} of all" if isinstance(share, int | float) else ""
    words = f"method {why['method']}; the shaded timesteps S are those above T{of_all}"
    chart = Chart(picture, Table(rows, ("t", "L_t / L_max", "in S")))
    yield Details(f"the loss at {len(rows)} timesteps", [Notes([words]), chart], unfolded=True)


def _is_within(t: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(low <= t <= high for low, high in spans)


SECTION = Section("Importance: which timesteps count", 110, _build)
