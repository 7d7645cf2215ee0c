"""diffc report: one run's report on the screen or as a page, or several runs compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.cli.command import Command, takes
from diffc.errors import RequestError

if TYPE_CHECKING:
    from diffc.report.model import Report
    from diffc_runtime.json_types import JsonDict


@takes("output_folders", "open", "html", "plot", "report_history", "price", "json", "quiet")
def report_(
    command: Command,
    output_folders: list[Path],
    open_: bool,
    html: Path | None,
    plot: Path | None,
    history: Path | None,
    price: float | None,
) -> None:
    """Show OUT's report, or compare several: a table, and latency against quality.

    Figures of several runs that were not measured alike carry a mark.

    \b
      diffc report OUT
      diffc report OUT --open --price 0.71/h
      diffc report OUT --plot frontier.png
      diffc report OUT-30 OUT-50 OUT-70 --html comparison.html
    """
    from diffc.report.current import current_report

    reports = []
    for path in output_folders:
        report, notes = current_report(path)
        report = report.model_copy(update={"price_per_hour": price})
        reports.append((str(path), report))
        for note in notes:
            print(f"diffc: note: {note}", file=sys.stderr)
    for flag, file in {"--history": history, "--plot": plot}.items():
        if len(reports) > 1 and file is not None:
            raise RequestError(f"{flag} belongs to one report", hint="give one OUT")
    if len(reports) > 1:
        page = html or (Path("comparison.html") if open_ else None)
        _show_several(reports, page, command)
    else:
        out = output_folders[0]
        folder = out if out.is_dir() else out.parent
        page = (html or folder / "report.html") if open_ or html or history else None
        _show_one(reports[0][1], folder, page, history, command)
        if plot is not None:
            _draw(reports[0][1], plot, quiet=command.silent)
    if page is not None:
        _show_page(page, open_, quiet=command.silent)


def _show_one(
    report: Report, folder: Path, page: Path | None, history: Path | None, command: Command
) -> None:
    from diffc.cli.show import show_report
    from diffc.report.html import to_html
    from diffc.result_files import check_outputs, write_whole, writing

    rows = _read_history(history)
    check_outputs({"--html": page})
    show_report(report, json=command.json, quiet=command.quiet)
    if page is not None:
        with writing(page, "--html"):
            write_whole(page, to_html(report, folder, rows))


def _draw(report: Report, plot: Path, *, quiet: bool) -> None:
    from diffc.report.frontier_figure import KINDS, frontier_figure
    from diffc.result_files import check_outputs, write_whole, writing

    kind = plot.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise RequestError(f"--plot {plot}: a picture's name ends in .{', .'.join(KINDS)}")
    check_outputs({"--plot": plot})
    content = frontier_figure(report, kind)
    with writing(plot, "--plot"):
        write_whole(plot, content)
    if not quiet:
        from diffc.cli.show import write_answer

        write_answer(plot)


def _read_history(path: Path | None) -> list[JsonDict]:
    """The history's rows; a line that cannot be read is named, and the others are kept."""
    if path is None:
        return []
    from diffc.gate.history import read_history

    history = read_history(path)
    for note in history.notes:
        print(f"diffc: {note}", file=sys.stderr)
    return history.rows


def _show_several(reports: list[tuple[str, Report]], page: Path | None, command: Command) -> None:
    from diffc.report.html import write_comparison
    from diffc.result_files import check_outputs, writing

    check_outputs({"--html": page})
    show_several(reports, command)
    if page is not None:
        with writing(page, "--html"):
            write_comparison(reports, page)


def show_several(reports: list[tuple[str, Report]], command: Command) -> None:
    """Print the comparison of several runs, as a table or as JSON."""
    if command.json:
        from diffc.cli.show import print_json

        print_json({"runs": {name: report.model_dump(mode="json") for name, report in reports}})
    elif not command.quiet:
        _table(reports)


def _table(reports: list[tuple[str, Report]]) -> None:
    from diffc.cli.show import answers
    from diffc.report.blocks import Table
    from diffc.report.comparison import comparison_blocks
    from diffc.report.tables import Column, print_table
    from diffc.report.terminal import show_blocks

    blocks = comparison_blocks(reports)
    for table in blocks:
        if isinstance(table, Table):  # a run's name is as wide as it is
            columns = [Column(text=True), *(Column(name) for name in table.heads[1:])]
            print_table(answers(), columns, table.rows)
    show_blocks([block for block in blocks if not isinstance(block, Table)], answers())


def _show_page(page: Path, open_: bool, *, quiet: bool) -> None:
    if open_:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    if not quiet:
        from diffc.cli.show import write_answer

        write_answer(page)
