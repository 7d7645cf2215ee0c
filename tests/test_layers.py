"""The layers are as docs/architecture.md draws them: a part imports only what is below it."""

from __future__ import annotations

from support.layers import NAMES_ALONE, PAGE, drawn_layers, imports, parts

LAYERS = drawn_layers(PAGE.read_text("utf-8"))
LEVELS = {part: level for level, row in enumerate(LAYERS) for part in row}


def test_every_part_is_drawn_once() -> None:
    drawn = [part for row in LAYERS for part in row]
    assert sorted(drawn) == sorted(set(drawn))
    assert set(drawn) == parts()


def test_each_part_imports_only_parts_below_it() -> None:
    """Inside functions too; an import for a type checker alone is none at run time."""
    wrong = [
        f"{one.place}: {one.part} imports {one.imported}"
        for one in imports()
        if not NAMES_ALONE & {one.part, one.imported} and LEVELS[one.part] >= LEVELS[one.imported]
    ]
    assert wrong == []


def test_a_picture_is_read_row_by_row() -> None:
    picture = ["    top      what it does", "    a  b     two of one row", "             more"]
    page = "\n".join(["# Title", "", "text", "", *picture, "", "    x/"])
    assert drawn_layers(page) == [["top"], ["a", "b"]]
