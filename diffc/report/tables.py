"""Tables of text for a terminal of any width, in which nothing is ever cut.

Where the columns fit they stand side by side. Where they do not, each row becomes a few lines, one
figure on each, under the row's name: a figure that is cut short reads as another figure.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 80
"""The width of a table with a column that takes what room there is."""
_GAP = 2
_BETWEEN_PARTS = r"(?<=[/_-])|(?<=\.)(?=\D)|(?<=\D\.)(?=\d)"
"""Where a long word may be broken: behind a dot that is no decimal point, a slash, a dash."""
_LEAST_TEXT = 14  # columns of text narrower than this are hard to read


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        head: Its heading.
        left: Cells are aligned to the left.
        least: The smallest width.
        text: Cells are names and sentences, which may be wrapped, a long name anywhere. Such
            columns share the room that figures leave.
    """

    head: str = ""
    left: bool = False
    least: int = 0
    text: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table as it is printed.

    Attributes:
        text: The line, without a line break.
        bold: Whether it is printed in bold.
    """

    text: str
    bold: bool = False


def print_table(
    screen: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    widest: int | None = None,
) -> None:
    """Print a table to a screen.

    Args:
        screen: Where to.
        columns: The heads, and how each column is set.
        rows: The cells of each row, as plain text.
        title: A line above it.
        widest: The table's width where the screen is wider; its first text column takes what room
            is left. None: the table takes no more room than it needs.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    from rich.text import Text

    if title:
        print_whole(screen, title, style="bold")
    width = screen.width if widest is None else min(screen.width, widest)
    for line in lines(columns, rows, width, fill=widest is not None):
        screen.print(Text(line.text, style="bold" if line.bold else ""), soft_wrap=True)


def print_whole(screen: Console, words: str, *, style: str = "") -> None:
    """Print a sentence, wrapped between words alone: a long word stays in one piece."""
    from rich.text import Text

    for line in wrapped(words, screen.width):
        screen.print(Text(line, style=style), soft_wrap=True)


def lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, *, fill: bool = False
) -> list[Line]:
    """The table in lines of at most ``width`` characters, longer only where one word is.

    Args:
        columns: The columns.
        rows: Cells by row.
        width: The most characters of a line.
        fill: True: the first text column takes what room is left, so that tables below each other
            are equally wide. Without a text column it has no effect.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"every row needs {len(columns)} cells")
    widths = _widths(columns, rows, width, fill)
    return _stacked(columns, rows, width) if widths is None else _side(columns, rows, widths)


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, fill: bool
) -> list[int] | None:
    """Each column's width, or None where they do not fit side by side."""
    longest = [
        max([len(column.head), *(len(row[i]) for row in rows)]) for i, column in enumerate(columns)
    ]
    texts = [i for i, column in enumerate(columns) if column.text]
    gaps = _GAP * (len(columns) - 1)
    wanted = [max(size, column.least) for size, column in zip(longest, columns, strict=True)]
    for sizes in (wanted, longest):  # the smallest widths are given up first
        room = width - gaps - sum(size for i, size in enumerate(sizes) if i not in texts)
        needed = sum(sizes[i] for i in texts)
        if needed <= room:
            if texts and fill:
                sizes[texts[0]] += room - needed
            return sizes
    least = {i: min(longest[i], max(_LEAST_TEXT, _longest_part(rows, i))) for i in texts}
    narrowed = list(longest)
    for index in reversed(texts):
        others = sum(least[i] for i in texts if i < index)
        narrowed[index] = min(longest[index], room - others)
        if narrowed[index] < least[index]:
            return None
        room -= narrowed[index]
    return narrowed if texts else None


def _longest_part(rows: Sequence[Sequence[str]], index: int) -> int:
    """The length of the longest piece of a column's words that is never broken."""
    parts = (part for row in rows for word in row[index].split() for part in _unbroken(word))
    return max(map(len, parts), default=0)


def _unbroken(word: str) -> list[str]:
    return re.split(_BETWEEN_PARTS, word)


def _side(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> list[Line]:
    heads = [column.head for column in columns]
    printed = [Line(text, bold=True) for text in _row(columns, heads, widths)] if any(heads) else []
    for row in rows:
        alone = bool(row[0]) and not any(row[1:])
        printed += [Line(text, bold=alone) for text in _row(columns, row, widths)]
    return printed


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row's lines: one, or as many as its longest text takes."""
    parts = [
        wrapped(cell, size, anywhere=True) if column.text else [cell]
        for column, cell, size in zip(columns, cells, widths, strict=True)
    ]
    printed = []
    for number in range(max(map(len, parts))):
        shown = [part[number] if number < len(part) else "" for part in parts]
        padded = [
            text.ljust(size) if column.left or column.text else text.rjust(size)
            for column, text, size in zip(columns, shown, widths, strict=True)
        ]
        printed.append((" " * _GAP).join(padded).rstrip())
    return printed


def _stacked(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[Line]:
    """Every row as a line with its name and one line for each of its figures."""
    printed = []
    heads = _heads_alone(columns)
    for row in rows:
        if row[0]:
            printed += [Line(text, bold=True) for text in wrapped(row[0], width)]
        for head, cell in zip(heads[1:], row[1:], strict=True):
            if cell:
                printed += [Line(text) for text in _cell_under_head(head, cell, width)]
    return printed


def _heads_alone(columns: Sequence[Column]) -> list[str]:
    """The heads where they stand below each other: of several alike, each names what it is of."""
    heads = [column.head for column in columns]
    return [
        f"{heads[i - 1]}, {head}" if head and i and heads.count(head) > 1 else head
        for i, head in enumerate(heads)
    ]


def _cell_under_head(head: str, cell: str, width: int) -> list[str]:
    """'  head: cell' in one line where it fits, else the cell in lines of its own."""
    whole = f"  {head}: {cell}" if head else f"  {cell}"
    if len(whole) <= width:
        return [whole]
    below = [f"    {cell}"] if len(cell) + 4 <= width else _indented(cell, width)
    return [f"  {head}:", *below] if head else below


def _indented(words: str, width: int) -> list[str]:
    return [f"    {line}" for line in wrapped(words, width - 4)]


def wrapped(words: str, width: int, *, anywhere: bool = False) -> list[str]:
    """Lines of at most ``width`` characters, broken between words alone.

    Every line begins with the spaces in front of the first word.

    Args:
        words: The text.
        width: The most characters of a line.
        anywhere: Break a word that is longer than a line, too.
    """
    if len(words) <= width:
        return [words]
    before = words[: len(words) - len(words.lstrip())]
    most = max(width, len(before) + 1)
    if anywhere:
        return [before + line for line in _filled(words.split(), most - len(before))] or [words]
    broken = textwrap.wrap(
        words.strip(),
        most,
        initial_indent=before,
        subsequent_indent=before,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return broken or [words]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Lines of at most ``width`` characters.

    A word that is longer is broken between its parts, such as those of a path or of a layer's name;
    a part that is longer, anywhere.
    """
    filled = [""]
    for word in words:
        gap = " " if filled[-1] else ""
        for part in [word] if len(word) <= width else _parts(word, width):
            if len(filled[-1]) + len(gap) + len(part) > width:
                filled.append("")
                gap = ""
            filled[-1] += gap + part
            gap = ""
    return [line for line in filled if line]


def _parts(word: str, width: int) -> Iterator[str]:
    for part in _unbroken(word):
        yield from (part[i : i + width] for i in range(0, len(part), width))
