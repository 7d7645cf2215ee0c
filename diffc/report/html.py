"""report.html: one file without a network, made of the report and OUT's samples.

    write_html       the page of one run
    write_comparison several runs: a table, and a Pareto picture of latency against quality

The page may load nothing: its policy allows this page's own style and script, by their hashes, and
pictures inside it. Strings are escaped by ``markup.tag``; the script reads nothing of the report.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffc.report import html_parts as parts
from diffc.report import html_speed
from diffc.report.lines import headline, shown_loops
from diffc.report.markup import Html, joined, tag
from diffc.report.model import Report
from diffc.report.speed import image_title
from diffc.report.units import count, size
from diffc_runtime.files import write_text

ASSETS = Path(__file__).parent / "assets"
NAME = "report.html"
_PAIR = ("dense.png", "compressed.png")
_MOST_PICTURE_BYTES = 900_000
_MOST_PIXELS = 1600


def write_html(report: Report, out: Path) -> Path:
    """Write ``out/report.html`` and return its path."""
    write_text(out / NAME, to_html(report, out))
    return out / NAME


def to_html(report: Report, out: Path | None = None, history: Sequence[Any] = ()) -> str:
    """The page as text. out: where samples/ lies. history: rows of diffc.gate.history."""
    sections = [
        ("Samples", lambda: samples(report, out)),
        ("Where the speed-up comes from", lambda: html_speed.causes(report)),
        *((f"One call on {_place(result)}", lambda r=result: html_speed.latency(r))
          for result in report.targets),
        *((_capital(image_title(result)), lambda r=result: html_speed.images(r))
          for result in shown_loops(report)),
        ("Precision, chosen by measuring", lambda: parts.choices(report)),
        ("Through an inference server", lambda: parts.serving(report)),
        ("Memory", lambda: parts.memory(report)),
        ("Latency over time", lambda: parts.drift(history)),
        ("Widths, layer by layer", lambda: parts.widths(report)),
        ("Importance: which timesteps count", lambda: parts.importance(report)),
        ("Data", lambda: parts.data(report)),
        ("Distillation", lambda: parts.distillation(report)),
        ("Stages", lambda: parts.stages(report)),
        ("Measured on", lambda: parts.environment(report)),
        ("Reproduce", lambda: parts.command(report)),
    ]  # fmt: skip
    body = [
        tag("header", tag("h1", headline(report)), tag("p", _about(report), class_="soft"),
            html_speed.facts(report)),
        tag("main", *(found for title, make in sections if (found := _section(title, make)))),
    ]  # fmt: skip
    return page(report.model.name, joined(*body), report)


def write_comparison(reports: Sequence[tuple[str, Report]], path: Path) -> Path:
    """Write the page that compares runs: (name, report) each."""
    write_text(path, comparison_html(reports))
    return path


def comparison_html(reports: Sequence[tuple[str, Report]]) -> str:
    """The comparison as text."""
    body = joined(
        tag("header", tag("h1", f"{len(reports)} runs compared")),
        tag("main", _section("Latency against quality", lambda: parts.pareto(reports)),
            _section("Figures", lambda: parts.comparison_table(reports))),
    )  # fmt: skip
    return page("comparison", body, reports[0][1])


def samples(report: Report, out: Path | None) -> Html | None:
    """Dense against compressed: a slider over both; the plain grid where the pair is not there."""
    folder = (out or Path()) / "samples"
    if out is None or not folder.is_dir():
        return None
    if all((folder / name).is_file() for name in _PAIR):
        dense, compressed = (
            tag("img", src=embedded(folder / name), alt=f"{name[:-4]} samples") for name in _PAIR
        )
        where = "dense on the left of the line, compressed on its right"
        return joined(_caption(report, where), _swipe(dense, compressed))
    if (folder / "grid.png").is_file():
        where = "dense above, compressed below"
        grid = tag("img", src=embedded(folder / "grid.png"), class_="grid", alt=where)
        return joined(_caption(report, where), grid)
    return None


def _swipe(dense: Html, compressed: Html) -> Html:
    range_ = tag("input", type="range", min="0", max="100", value="50", id="swipe",
                 aria_label="share of the picture that shows dense samples")  # fmt: skip
    sides = tag("div", tag("span", "dense"), range_, tag("span", "compressed"),
                tag("button", "Flip", type="button"), class_="sides")  # fmt: skip
    return tag("div", tag("div", dense, compressed, class_="swipe"), sides, data_swipe=True)


def _caption(report: Report, where: str) -> Html:
    words = f"Both models from the same noise: {where}"
    figure = (report.quality or {}).get("ssim") or {}
    if figure:
        words += f"; {figure['sampler']}, {figure['steps']} steps"
    return tag("p", words + ".", class_="soft")


def embedded(path: Path) -> str:
    """A picture as a data URI; a large one is scaled down and becomes a JPEG first."""
    data, kind = path.read_bytes(), "png"
    if len(data) > _MOST_PICTURE_BYTES:
        data, kind = _smaller(path), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _smaller(path: Path) -> bytes:
    from io import BytesIO

    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    for side in (_MOST_PIXELS, _MOST_PIXELS // 2):
        small.thumbnail((side, side))
        buffer = BytesIO()
        small.save(buffer, format="JPEG", quality=85)
        if buffer.tell() <= _MOST_PICTURE_BYTES:
            break
    return buffer.getvalue()


def page(title: str, body: Html, report: Report) -> str:
    """A whole document around ``body``."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"diffc: {title}"),
        Html(f"<style>{style}</style>"),
    )
    made = tag("footer", tag("p", f"diffc {report.diffc}, {report.created}"))
    document = tag("html", head, tag("body", body, made, Html(f"<script>{script}</script>")),
                   lang="en")  # fmt: skip
    return f"<!doctype html>\n{document}\n"


def _section(title: str, make: Callable[[], Html | None]) -> Html | None:
    """A section; a part of a report that somebody wrote by hand may be anything."""
    try:
        inside = make()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        inside = tag("p", f"this part of report.json cannot be shown ({type(error).__name__})")
    return None if inside is None else tag("section", tag("h2", title), inside)


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _place(result: Any) -> str:
    return f"{result.target}, {result.precision}, {result.shape_words}"


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _about(report: Report) -> str:
    """The models in a line."""
    sides: Mapping[str, Any] = {"dense": report.model, "compressed": report.compressed}
    return "; ".join(
        f"{name}: {count(m.params)} parameters, {count(m.macs)} MACs, {size(m.bytes)}"
        for name, m in sides.items()
        if m is not None
    )
