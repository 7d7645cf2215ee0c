"""report.html: one file that needs no network, from the report and OUT's samples.

    write_html       the page of one run
    write_comparison several runs: a table, and a Pareto picture of latency against quality

The page may load nothing and has no script: its policy allows this page's own style, by its hash,
and pictures inside it. html_blocks.py makes the body; strings are escaped by ``markup.tag``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from diffc.report.blocks import Facts, Part
from diffc.report.comparison import comparison_parts
from diffc.report.history import history_parts
from diffc.report.html_blocks import render_parts
from diffc.report.markup import Html, tag
from diffc.report.model import Report
from diffc.report.sections import parts
from diffc_runtime.files import write_text
from diffc_runtime.json_types import JsonObject

STYLE = Path(__file__).parent / "assets" / "report.css"
NAME = "report.html"


def write_html(report: Report, out: Path) -> Path:
    """Write ``out/report.html`` and return its path."""
    write_text(out / NAME, to_html(report, out))
    return out / NAME


def to_html(report: Report, out: Path | None = None, history: Sequence[JsonObject] = ()) -> str:
    """The page as text.

    Args:
        report: What is shown.
        out: The folder that has samples/; None for a page without pictures.
        history: Rows of ``diffc.gate.history``, for the latency over time.
    """
    body = render_parts([*parts(report), *history_parts(history)], out)
    return page(report.model.name, body, report)


def write_comparison(reports: Sequence[tuple[str, Report]], path: Path) -> Path:
    """Write the page that compares runs: (name, report) each."""
    write_text(path, comparison_html(reports))
    return path


def comparison_html(reports: Sequence[tuple[str, Report]]) -> str:
    """The comparison as text."""
    title = Part("Comparison", [Facts(f"{len(reports)} runs compared", [])])
    body = render_parts([title, *comparison_parts(reports)], None)
    return page("comparison", body, reports[0][1])


def page(title: str, body: Html, report: Report) -> str:
    """A whole document around ``body``."""
    style = _style()
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"diffc: {title}"),
        Html(f"<style>{style}</style>"),
    )
    footer = tag("footer", tag("p", f"diffc {report.diffc}, {report.created}"))
    whole_body = tag("body", body, footer)
    return f"<!doctype html>\n{tag('html', head, whole_body, lang='en')}\n"


@cache
def _style() -> str:
    return STYLE.read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
