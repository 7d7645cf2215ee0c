"""RecipeSection: what all sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class RecipeSection(BaseModel):
    """A frozen set of options. An unknown key is an error, and so are infinity and NaN.

    Upper and lower case are the same in options that take words: FP16 is fp16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _spell_words(cls, given: object) -> object:
        """Words in the spelling of the option that takes them."""
        if not isinstance(given, Mapping):
            return given
        return {name: _spelled(cls, name, value) for name, value in given.items()}


def _spelled(kind: type[BaseModel], name: object, value: object) -> object:
    if not isinstance(value, str) or not isinstance(name, str) or name not in kind.model_fields:
        return value
    words = literal_words(kind.model_fields[name].annotation)
    return next((word for word in words if word.lower() == value.lower()), value)


def literal_words(kind: object) -> list[str]:
    """The strings of every Literal in a type."""
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for inner in get_args(kind) for word in literal_words(inner)]
