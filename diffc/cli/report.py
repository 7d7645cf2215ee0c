"""diffc report: one run's report on the screen or as a page, or several runs compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffc.cli import options as o
from diffc.errors import RequestError

if TYPE_CHECKING:
    from diffc.report.model import Report


def report_(
    out: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT...", help="Output folders of diffc compile.", parser=o.user_path
        ),
    ],
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write the page here.  [OUT/report.html; comparison.html]",
            parser=o.user_path,
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            "--history", help="A .jsonl of diffc check, drawn over time.", parser=o.user_path
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show OUT's report, or compare several: a table, and latency against quality.

    \b
      diffc report OUT
      diffc report OUT --open
      diffc report OUT-30 OUT-50 OUT-70 --html comparison.html
    """
    from diffc.report.current import current_report

    reports = []
    for path in out:
        report, notes = current_report(path)
        reports.append((str(path), report))
        for note in notes:
            print(f"diffc: note: {note}", file=sys.stderr)
    if len(reports) == 1:
        _one(out[0], reports[0][1], open_, html, history, json=json, quiet=quiet)
        return
    if history is not None:
        raise RequestError("--history belongs to one report", hint="give one OUT")
    _several(reports, open_, html, json=json, quiet=quiet)


def _one(
    out: Path, report: Report, open_: bool, html: Path | None, history: Path | None, *,
    json: bool, quiet: bool,
) -> None:  # fmt: skip
    from diffc.cli.show import show_report
    from diffc.report.html import NAME
    from diffc.result_files import check_outputs

    folder = out if out.is_dir() else out.parent
    page = (html or folder / NAME) if open_ or html or history else None
    past = _read_history(history)
    check_outputs({"--html": page})
    show_report(report, json=json, quiet=quiet)
    if page is None:
        return
    from diffc.report.html import to_html
    from diffc.result_files import write_whole, writing

    with writing(page, "--html"):
        write_whole(page, to_html(report, folder, past))
    _tell(page, open_, quiet=quiet or json)


def _read_history(path: Path | None) -> list[dict[str, Any]]:
    """The history's rows; a line that cannot be read is named, and the others are kept."""
    if path is None:
        return []
    from diffc.gate.history import read_history

    past = read_history(path)
    for note in past.notes:
        print(f"diffc: {note}", file=sys.stderr)
    return past.rows


def _several(
    reports: list[tuple[str, Report]], open_: bool, html: Path | None, *, json: bool, quiet: bool
) -> None:
    from diffc.report.html import write_comparison
    from diffc.result_files import check_outputs, writing

    page = html or (Path("comparison.html") if open_ else None)
    check_outputs({"--html": page})
    if json:
        from diffc.cli.show import print_json

        print_json({"runs": {name: report.model_dump(mode="json") for name, report in reports}})
    elif not quiet:
        _table(reports)
    if page is not None:
        with writing(page, "--html"):
            write_comparison(reports, page)
        _tell(page, open_, quiet=quiet or json)


def _table(reports: list[tuple[str, Report]]) -> None:
    from diffc.cli.show import console
    from diffc.report.comparison import comparison_table
    from diffc.report.tables import Column, print_table

    table = comparison_table(reports)
    columns = [Column(text=True), *(Column(name) for name in table.heads[1:])]
    print_table(console(), columns, table.rows)


def _tell(page: Path, open_: bool, *, quiet: bool) -> None:
    if open_:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    if not quiet:
        print(page, file=sys.stderr)
