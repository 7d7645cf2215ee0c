"""What can be done with the output folder now; OUT stands for it."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Details, Table
from diffc.report.model import Report
from diffc.report.sections import Section


def _build(report: Report) -> Iterator[Details]:
    if report.compressed is None:
        return
    rows = list(_steps(report))
    yield Details("The output folder is OUT here", [Table(rows, ("", "command"), 2)], unfolded=True)


def _steps(report: Report) -> Iterator[tuple[str, str]]:
    """What for, and the command."""
    yield from (
        ("make images, dense beside compressed", "diffc generate OUT --n 4 --compare --out a.png"),
        ("judge more images", "diffc eval OUT --images 64"),
        (
            "put the engine into a service",
            f"diffc bundle OUT --server none{_target(report)} --to service",
        ),
        ("keep this run, so that later ones are held to it", "diffc baseline save OUT"),
        ("let CI refuse a slower or worse one", "diffc check OUT --baseline baselines/main"),
    )
    unmeasured = [result.target for result in report.targets if result.speedup is None]
    for target in dict.fromkeys(unmeasured):
        words = f"measure {target} where it runs: copy OUT there, and"
        yield words, f"diffc bench OUT --target {target}"


def _target(report: Report) -> str:
    """The flag that a bundle needs where there are several targets."""
    targets = dict.fromkeys(result.target for result in report.targets)
    measured = [result.target for result in report.targets if result.speedup is not None]
    return f" --target {measured[0]}" if len(targets) > 1 and measured else ""


SECTION = Section("What to do next", 160, _build)
