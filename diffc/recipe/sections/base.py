"""RecipeSection: what all sections of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RecipeSection(BaseModel):
    """A frozen set of options. An unknown key is an error, and so are infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
