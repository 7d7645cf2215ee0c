"""How a recipe's values may be written: what people write, as the type that the recipe has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from diffc.models.resolutions import as_word, read_side
from diffc_export.disks import user_path

MOST_SEED = 2**63 - 1
"""What PyTorch's generators take."""

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


def _several(value: Any) -> Any:
    """One value, or a text such as '1,4', as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def _sides(value: Any) -> Any:
    """Sides as recipes have them: 64, or '48x64' where a height and a width differ."""
    sides = _several(value)
    try:
        return tuple(map(_side, sides)) if isinstance(sides, list | tuple) else sides
    except ValueError as error:
        raise ValueError(f"resolution: {error}") from None


def _side(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no side such as 64, and no height x width such as 64x96")
    return as_word(read_side(value))


def _on_off(value: Any) -> Any:
    """YAML reads the words on and off as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _none(value: Any) -> Any:
    """The words none and off (a boolean in YAML) for nothing."""
    return None if value is False or value in ("none", "off") else value


def _percent(value: Any) -> Any:
    """A number from 1 on is a percentage; below, 0.05 could mean 5 % as well as 0.05 %."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if value < 1:
        raise ValueError(f"{value:g} is no share such as 5%")
    return f"{value:g}%"


def _text(value: Any) -> Any:
    """A number as text, which its reader judges."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else value


def _expanded(value: Any) -> Any:
    return str(user_path(value)) if isinstance(value, str | Path) else value


Numbers = Annotated[tuple[int, ...], BeforeValidator(_several)]
Sides = Annotated[tuple[int | str, ...], BeforeValidator(_sides)]
Words = Annotated[tuple[str, ...], BeforeValidator(_several)]
OnOff = BeforeValidator(_on_off)
NoneWord = BeforeValidator(_none)
Share = Annotated[str, BeforeValidator(_percent)]
Limit = Annotated[str, BeforeValidator(_text)]
PathText = Annotated[str, BeforeValidator(_expanded)]
