"""The rules of the house (scripts/house.py): every figure is within its limit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    above = {row.rule: (row.value, list(row.places[:20])) for row in rows if row.value > row.limit}
    assert above == {}
