"""report.md: for a pull request or a wiki."""

from __future__ import annotations

from diffc.report.lines import Section, headline, sections
from diffc.report.model import Report
from diffc.report.units import seconds


def to_markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    parts = [f"# {escape(headline(report))}", ""]
    for section in sections(report):
        parts += _table(section)
    parts += _stages(report) + _environment(report)
    if report.command:
        parts += ["## Reproduce", "", f"    {report.command}", ""]
    parts.append(f"diffc {report.diffc}, {report.created}")
    return "\n".join(parts) + "\n"


def _table(section: Section) -> list[str]:
    lines = [f"## {escape(section.title)}", ""]
    lines += [f"| | {' | '.join(section.heads)} |", "|---|---:|---:|---|"]
    lines += [f"| {' | '.join(map(escape, row))} |" for row in section.rows]
    lines += ["", *(f"{escape(note)}  " for note in section.notes), ""]
    return lines


def _stages(report: Report) -> list[str]:
    lines = ["## Stages", "", "| stage | seconds | peak memory | |", "|---|---:|---:|---|"]
    for stage in report.stages:
        reused = "reused" if stage.cached else ""
        memory = f"{stage.peak_rss_bytes / 1e6:.0f} MB"
        lines.append(f"| {stage.name} | {seconds(stage.seconds)} | {memory} | {reused} |")
    return [*lines, ""]


def _environment(report: Report) -> list[str]:
    if not report.environment:
        return []
    found = report.environment
    packages = ", ".join(f"{k} {v}" for k, v in sorted(found["packages"].items()))
    gpus = ", ".join(gpu["name"] for gpu in found["gpus"]) or "no GPU"
    return [
        "## Measured on",
        "",
        escape(f"{found['cpu']}, {found['cores']} cores, {gpus}, {found['os']}, {packages}"),
        "",
    ]


def escape(text: str) -> str:
    """Text from the user's side as literal Markdown inside a table."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
