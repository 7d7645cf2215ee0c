"""By what factor parameters, MACs and times fell."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.results import Speedup, at_working
from diffc.report import speed
from diffc.report.blocks import Bar, Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import factor


def _build(report: Report) -> Iterator[Details]:
    factors = list(_factors(report))
    if not factors:
        return
    most = max([1.0, *(times for _, times in factors)])
    table = Table(
        [(what, factor(times)) for what, times in factors],
        ("", "dense / compressed"),
        bars=[Bar(times / most) for _, times in factors],
    )
    notes = [
        f"{result.target}, {result.shape_words}: the speed-up is {result.efficiency:.2f} of the "
        f"fall in MACs{_doubt(result.speedup)}"
        for result in report.targets
        if result.efficiency is not None
    ]
    notes = [*_left_out(report), *_allocation(report), *notes]
    yield Details("size and time", [table, Notes(notes)], unfolded=True)


def _allocation(report: Report) -> Iterator[str]:
    """How the ratio was spread over the layers, where the run itself chose that, and why."""
    why = (report.plan or {}).get("why", {})
    if why.get("allocated_since"):
        yield f"allocation by {why['allocate']}: {why['allocated_since']}"


def _left_out(report: Report) -> Iterator[str]:
    """Which branches and blocks went whole, and how many there were to choose from."""
    from diffc.models.groups import BRANCH_KINDS

    plan = report.plan or {}
    rows = plan.get("groups", [])
    units = [row for row in rows if row["kind"] in BRANCH_KINDS]
    gone = [row["name"] for row in units if not row["kept"]]
    if not gone:
        return
    whole = [n for n in gone if not any(n.startswith(f"{other}.") for other in gone)]
    # in a run of --cut width they are those that the recipe names
    is_chosen = plan.get("why", {}).get("cut", "width") != "width"
    words = "since the output changes least without them for what they cost" if is_chosen else ""
    yield (
        f"left out whole{', ' if words else ''}{words}: {', '.join(whole)}; "
        f"{len(units) - len(gone)} of {len(units)} branches and blocks stay"
    )


def _factors(report: Report) -> Iterator[tuple[str, float]]:
    """(what, dense / compressed)."""
    small = report.compressed
    if small is None:
        return
    yield "parameters", report.model.params / small.params
    yield "MACs", report.model.macs / small.macs
    kinds = (("one step", at_working(report.targets)), ("one image", report.pipeline))
    for kind, results in kinds:
        for result in results:
            if result.speedup is not None:
                place = f"{result.target} {result.precision}, {result.shape_words}"
                doubt = _doubt(result.speedup)
                yield f"time of {kind}: {place}{doubt}", result.speedup.median


def _doubt(speedup: Speedup | None) -> str:
    return "" if speedup is None or speedup.is_shown else f" ({speed.NOT_SHOWN})"


SECTION = Section("What was cut, and what came of it", 60, _build)
