"""Each kind of block as HTML. Every string is escaped by ``markup.tag``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffc.report import svg
from diffc.report.blocks import (
    Bar,
    Block,
    Chart,
    Code,
    Details,
    Facts,
    Images,
    Notes,
    Part,
    Table,
)
from diffc.report.markup import Html, joined, tag
from diffc.report.pictures import PIXEL_ART, STRENGTH, PicturePair, embed, picture_pairs

_MOST_ROWS = 24
"""Rows above which a table scrolls inside a box."""


def render_parts(parts: Sequence[Part], out: Path | None) -> Html:
    """The header and the sections of a page.

    Args:
        parts: What is shown, in reading order. Facts go into the header.
        out: The folder that pictures lie in; None for no pictures.
    """
    header = [block for part in parts for block in part.blocks if isinstance(block, Facts)]
    sections = [_section(part, out) for part in parts]
    return joined(tag("header", *map(_facts, header)), tag("main", *sections))


def _section(part: Part, out: Path | None) -> Html | None:
    content = _blocks(part.blocks, part.title, out)
    return tag("section", tag("h2", part.title), *content) if content else None


def _blocks(blocks: Sequence[Block], title: str, out: Path | None) -> list[Html]:
    """The blocks one below the other; a table and the chart after it stand side by side."""
    content: list[Html] = []
    tables: list[Html] = []  # the table before the present block, until it is placed
    for block in blocks:
        if isinstance(block, Chart) and tables:
            chart = tag("div", *_chart(block, title))
            content.append(tag("div", chart, tag("div", tables.pop()), class_="two"))
            continue
        content += tables
        tables = []
        if isinstance(block, Table):
            tables = [_table(block, title)]
        else:
            content += _other(block, title, out)
    return content + tables


def _other(block: Block, title: str, out: Path | None) -> Iterator[Html]:
    if isinstance(block, Notes):
        yield from (_note(sentence, block.is_warning) for sentence in block.sentences)
    elif isinstance(block, Code):
        yield tag("pre", tag("code", block.text))
    elif isinstance(block, Chart):
        yield from _chart(block, title)
    elif isinstance(block, Images):
        yield from _images(block, out)
    elif isinstance(block, Details):
        summary = tag("summary", block.summary)
        inside = _blocks(block.blocks, title, out)
        if inside:
            yield tag("details", summary, *inside, open=block.unfolded)


def _facts(block: Facts) -> Html:
    boxes = (
        tag(
            "div",
            tag("dt", _unbroken(fact.name)),
            tag(
                "dd",
                _unbroken(fact.figure),
                tag("small", _unbroken(fact.remark)) if fact.remark else None,
            ),
        )
        for fact in block.facts
    )
    figures = tag("dl", *boxes, class_="facts") if block.facts else None
    notes = [_note(sentence) for sentence in block.notes]
    return joined(tag("h1", block.sentence), *notes, figures)


_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|s|min|h|[kMGT]?B|[kMGT])(?!\w))")


def _unbroken(text: str) -> str:
    """The text with no-break spaces between numbers and units: no line ends there."""
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)


def _note(sentence: str, is_warning: bool = False) -> Html:
    """A sentence with its full stop; the style raises the first letter of a word, not of a name."""
    words = sentence + ("" if sentence.endswith(".") else ".")
    kinds = ["note"] if sentence.split(" ")[0].rstrip(":").isalpha() else []
    return tag("p", words, class_=" ".join([*kinds, "bad" if is_warning else "soft"]))


def _table(table: Table, title: str) -> Html:
    """A table whose first cell of each row is its header."""
    has_bars = any(bar is not None for bar in table.bars)
    heads = [*table.heads, *([""] if has_bars else [])]
    head = [
        tag("th", name, scope="col", class_=None if i < table.texts else "n")
        for i, name in enumerate(heads)
    ]
    bars = table.bars if has_bars else [None] * len(table.rows)
    body = [
        tag("tr", *_cells(row, table.texts), _bar(bar) if has_bars else None)
        for row, bar in zip(table.rows, bars, strict=True)
    ]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    wide = tag("div", whole, class_="wide")
    if len(table.rows) <= _MOST_ROWS:
        return wide
    return tag("div", wide, class_="long", tabindex="0", role="region", aria_label=title)


def _cells(row: Sequence[str], texts: int) -> Iterator[Html]:
    for index, cell in enumerate(row):
        if index == 0:
            yield tag("th", cell, scope="row")
        else:
            yield tag("td", cell, class_=None if index < texts else "n")


def _bar(bar: Bar | None) -> Html:
    drawing = None if bar is None else svg.bar(bar.share, bar.outline, second=bar.compressed)
    return tag("td", drawing, class_="bars")


def _chart(chart: Chart, title: str) -> Iterator[Html]:
    """The picture, and its numbers in a table that opens."""
    yield chart.picture
    if chart.numbers is not None:
        yield tag("details", tag("summary", "The numbers"), _table(chart.numbers, title))


def _images(images: Images, out: Path | None) -> Iterator[Html]:
    """The pairs, image by image; the two pictures, or one, where these cannot be cut."""
    if out is None:
        return
    paths = (out / images.dense, out / images.compressed)
    if all(path.is_file() for path in paths):
        pairs = list(picture_pairs(*paths, len(images.captions)))
        if pairs:
            where = f"dense, compressed, and their difference ({STRENGTH} times as strong)"
            yield _caption(images, f"from top to bottom {where}")
            yield _sheet(pairs, images.captions)
            return
        yield _caption(images, "dense above, compressed below")
        for path in paths:
            yield tag("img", src=embed(path), alt=f"{path.stem} samples", class_="grid")
    elif (out / images.both).is_file():
        where = "dense above, compressed below"
        yield _caption(images, where)
        yield tag("img", src=embed(out / images.both), class_="grid", alt=where)


def _caption(images: Images, where: str) -> Html:
    settings = f"; {images.settings}" if images.settings else ""
    return _note(f"{images.caption}: {where}{settings}")


def _sheet(pairs: Sequence[PicturePair], captions: Sequence[Sequence[str]]) -> Html:
    """The pairs, and a box to tick that lets dense and compressed change places (style alone)."""
    box = tag("input", type="checkbox", id="flip")
    label = tag("label", box, " Swap dense and compressed, to see what moves", class_="flip")
    figures = [
        _figure(number, pair, lines)
        for number, (pair, lines) in enumerate(zip(pairs, captions, strict=True), 1)
    ]
    return tag("div", label, tag("div", *figures, class_="sheet"), class_="pairs")


def _figure(number: int, pair: PicturePair, lines: Sequence[str]) -> Html:
    kind = "pixels" if pair.width <= PIXEL_ART else None
    pictures = [
        tag("img", src=pair.dense, alt=f"image {number}, dense", class_="d"),
        tag("img", src=pair.compressed, alt=f"image {number}, compressed", class_="c"),
        tag("img", src=pair.difference, alt=f"image {number}, difference", class_="e"),
    ]
    texts = [tag("span", line) for line in lines]
    return tag("figure", *pictures, tag("figcaption", tag("b", number), *texts), class_=kind)
