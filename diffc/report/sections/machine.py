"""The machine and the versions that the figures were measured with."""

from __future__ import annotations

from collections.abc import Iterator

from diffc.report.blocks import Details, Notes, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.units import size


def _build(report: Report) -> Iterator[Notes | Details]:
    machine = report.environment
    if not machine:
        return
    gpus = ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in machine["gpus"])
    processor = f"{machine['cpu']}, {machine['cores']} cores"
    system = f"{machine['os']}, Python {machine['python']}"
    rows = [
        ("processor", processor),
        ("GPU", gpus or "none"),
        ("system", system),
        ("memory", size(machine["memory_bytes"])),
        ("load", ", ".join(f"{load:.2f}" for load in machine["load"] or ())),
        ("fingerprint", str(machine["fingerprint"])),
        *sorted((str(name), str(version)) for name, version in machine["packages"].items()),
    ]
    yield Notes([f"{processor}, {gpus or 'no GPU'}, {system}"])
    yield Details("load and versions", [Table(rows, ("", ""), texts=2)], unfolded=True)


SECTION = Section("Measured on", 140, _build)
