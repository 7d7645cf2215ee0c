"""report.json without figures of files that the output folder no longer has."""

from __future__ import annotations

from pathlib import Path

from diffc.follows import check_untouched, still_follows
from diffc.output import is_output, no_run
from diffc.report.model import Report


def current_report(out: Path) -> tuple[Report, list[str]]:
    """Read the report of an output folder, without figures that its files have outlived.

    Args:
        out: An output folder, or a report.json. One that lies outside an output folder is read
            as it is.

    Returns:
        The report, and a sentence for each stage whose figures were left out.

    Raises:
        InputError: There is no report, or the plan or the model was changed by hand.
    """
    if not out.exists() and out.suffix != ".json":
        raise no_run(out, "diffc compile makes one")
    report, folder = Report.read(out), out if out.is_dir() else out.parent
    if not is_output(folder):
        return report, []
    check_untouched(folder)
    names = [stage.name for stage in report.stages]
    gone = sorted(set(names) - set(still_follows(folder, names)))
    notes = [
        f"what {folder} holds is newer than the figures of {name}: they are left out"
        for name in gone
    ]
    return _without(report, gone), notes


def _without(report: Report, gone: list[str]) -> Report:
    """Return the report without the figures of some stages."""

    def is_current(kind: str, target: str) -> bool:
        return f"{kind}-{target}" not in gone

    return report.model_copy(
        update={
            "stages": [stage for stage in report.stages if stage.name not in gone],
            "targets": [row for row in report.targets if is_current("bench", row.target)],
            "pipeline": [row for row in report.pipeline if is_current("bench", row.target)],
            "choices": [row for row in report.choices if is_current("choose", row.target)],
            "ladders": [row for row in report.ladders if is_current("explain", row.target)],
            "served": [row for row in report.served if is_current("serve", row.target)],
            "quality": None if "samples" in gone else report.quality,
            "evaluations": [row for row in report.evaluations if row.name not in gone],
            "frontiers": [row for row in report.frontiers if is_current("frontier", row.target)],
            "anchors": [row for row in report.anchors if is_current("anchors", row.target)],
            "loop_distillation": None if "distill-loop" in gone else report.loop_distillation,
            "repair": None if "repair" in gone else report.repair,
            "block_local": None if "distill-blocks" in gone else report.block_local,
            "distillation": None if "distill" in gone else report.distillation,
        }
    )
