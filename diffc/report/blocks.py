"""The kinds of blocks that report sections are built of, and that every rendering knows.

    Table    rows under heads; bars beside the rows in HTML
    Notes    sentences
    Facts    a sentence with the most important figures
    Chart    a picture with its numbers in a table
    Images   pictures of the output folder
    Code     text to copy
    Details  supporting blocks: folded where room is scarce
    Part     blocks under a title of their own
    drop_empty  blocks without those that have no content

Blocks hold plain text. Each rendering escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from diffc.report.markup import Html
from diffc.report.plot import Plot

HEADS = ("", "dense", "compressed", "")


@dataclass(frozen=True)
class Bar:
    """A bar beside a row of a table. HTML alone draws it.

    Attributes:
        share: The filled length, as a share of the column's width.
        outline: The length of the outline around it, as such a share.
        compressed: Draw the bar in the colour of the compressed model.
    """

    share: float
    outline: float = 1.0
    compressed: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of text under heads; the first ``texts`` columns hold words, the others figures.

    Attributes:
        rows: Cells by row. A row has as many as there are heads.
        heads: The columns' heads; an empty string for none.
        texts: The number of leading columns that hold words.
        bars: One for each row, or empty for a table without bars.
    """

    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = HEADS
    texts: int = 1
    bars: Sequence[Bar | None] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a row or bars of another length."""
        if any(len(row) != len(self.heads) for row in self.rows):
            raise ValueError(f"every row of the table needs {len(self.heads)} cells")
        if self.bars and len(self.bars) != len(self.rows):
            raise ValueError("a table with bars needs one for each row")


@dataclass(frozen=True)
class Notes:
    """Sentences, each a paragraph of its own, in lower case and without a full stop at the end.

    Attributes:
        sentences: The sentences.
        is_warning: The figures beside them may mislead; HTML shows the sentences in red.
    """

    sentences: Sequence[str]
    is_warning: bool = False


@dataclass(frozen=True)
class Fact:
    """One important figure: its name, the figure, and a remark below it."""

    name: str
    figure: str
    remark: str = ""


@dataclass(frozen=True)
class Facts:
    """The report in one sentence, and its most important figures, which HTML shows large.

    Attributes:
        sentence: The first thing that is shown.
        facts: The figures.
        notes: What to do about it, and how to read it.
        summary: The last line in the terminal: what was found, without the reason.
    """

    sentence: str
    facts: Sequence[Fact]
    notes: Sequence[str] = ()
    summary: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture from ``diffc.report.svg``, and the table of the numbers that it shows.

    Attributes:
        picture: The SVG.
        numbers: What the picture shows; None where the table before the chart has it all.
        plot: The same in characters, for a terminal; None where a terminal has the numbers alone.
    """

    picture: Html
    numbers: Table | None
    plot: Plot | None = None


@dataclass(frozen=True)
class Images:
    """Pictures of OUT, which HTML embeds: image by image with their difference, or both as one.

    Attributes:
        dense: The path of the dense model's picture in OUT.
        compressed: The path of the compressed model's.
        both: The path of the picture that is shown where one of those is missing.
        caption: A sentence that goes before the position of the two.
        settings: How the pictures were made; may be empty.
        captions: What stands below each image, in their order: its figure, its prompt. There are
            as many as there are images on the two pictures.
    """

    dense: str
    compressed: str
    both: str
    caption: str
    settings: str = ""
    captions: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Code:
    """Text that is shown letter by letter, such as a command."""

    text: str


@dataclass(frozen=True)
class Details:
    """Supporting blocks. HTML and Markdown fold them; the terminal says that the page has them.

    Attributes:
        summary: What stands on the fold.
        blocks: What it hides.
        unfolded: HTML shows the blocks at once.
    """

    summary: str
    blocks: Sequence[Block]
    unfolded: bool = False


@dataclass(frozen=True)
class Part:
    """Blocks under a title of their own, for a section that has several."""

    title: str
    blocks: Sequence[Block]


Block: TypeAlias = Table | Notes | Facts | Chart | Images | Code | Details
KINDS = (Table, Notes, Facts, Chart, Images, Code, Details)


def drop_empty(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that have content."""
    return [block for block in blocks if _has_content(block)]


def _has_content(block: Block) -> bool:
    if isinstance(block, Table):
        return bool(block.rows)
    if isinstance(block, Notes):
        return bool(block.sentences)
    if isinstance(block, Details):
        return bool(drop_empty(block.blocks))
    return True
