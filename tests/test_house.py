"""The rules of the house (scripts/house.py): what is reached is kept, the rest gets no worse."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TODAY = {
    "fmt: skip": 27,
    "Any per 1,000 lines": 10.1,
    "top-level class names that stand for two classes": 2,
    "functions named by a bare participle, %": 1.11,
    "variables called asked, found, held, made": 90,
}
"""The figures that are not at their limits yet: none may rise, and a rule that is kept leaves."""


@pytest.fixture(scope="module")
def rows():
    path = ROOT / "scripts" / "house.py"
    spec = importlib.util.spec_from_file_location("house", path)
    house = importlib.util.module_from_spec(spec)
    sys.modules["house"] = house  # dataclasses look their module up
    try:
        spec.loader.exec_module(house)
        return house.figures(house.read_modules(ROOT / "diffc", ROOT / "export"))
    finally:
        sys.modules.pop("house")


def test_no_figure_is_above_its_limit(rows) -> None:
    above = {
        row.rule: (row.value, list(row.places[:20]))
        for row in rows
        if row.value > max(row.limit, TODAY.get(row.rule, row.limit))
    }
    assert above == {}


def test_every_exception_is_of_a_rule(rows) -> None:
    assert set(TODAY) <= {row.rule for row in rows}
