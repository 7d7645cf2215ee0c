"""What a run does: every option, typed, validated and lockable.

A recipe is resolved from four layers, the later ones winning key by key:

    built-in defaults < the family's recipe (recipes/*.yaml) < a recipe file < flags

``recipe.lock.yaml`` holds the outcome, with every version and the hash of every input.

sections/       one file for each section of a recipe: its fields, defaults and checks
recipe.py       Recipe: all sections together
layers.py       resolve: the four layers become one Recipe
files.py        the recipes that ship with diffc, and recipe files of the user
older.py        options of older recipes and locks, in today's words
yaml_file.py    reads one YAML file, and refuses a key that stands there twice
words.py        the ways in which people write a value, such as 1,4,8
validation.py   turns pydantic's errors into one line that names the key
"""

from diffc.recipe.files import RecipeFile, recipe_file, recipe_files
from diffc.recipe.layers import recognised, resolve
from diffc.recipe.recipe import Recipe
from diffc.recipe.sections.build import (
    DEFAULT_TARGET,
    BuildSection,
    TargetOverrides,
    with_overrides,
)
from diffc.recipe.sections.check import CheckSection
from diffc.recipe.sections.data import DataSection
from diffc.recipe.sections.distill import (
    BlockLocalSection,
    DistillSection,
    LoopTrainingSection,
    LossesSection,
)
from diffc.recipe.sections.export import ExportSection
from diffc.recipe.sections.measure import MeasureSection
from diffc.recipe.sections.prune import ImportanceSection, PruneSection
from diffc.recipe.sections.quality import QualitySection
from diffc.recipe.sections.repair import RepairSection
from diffc.recipe.sections.training import LowRankSection
from diffc.recipe.validation import option_paths, validate

__all__ = [
    "DEFAULT_TARGET",
    "BlockLocalSection",
    "BuildSection",
    "CheckSection",
    "DataSection",
    "DistillSection",
    "ExportSection",
    "ImportanceSection",
    "LoopTrainingSection",
    "LossesSection",
    "LowRankSection",
    "MeasureSection",
    "PruneSection",
    "QualitySection",
    "Recipe",
    "RecipeFile",
    "RepairSection",
    "TargetOverrides",
    "option_paths",
    "recipe_file",
    "recipe_files",
    "recognised",
    "resolve",
    "validate",
    "with_overrides",
]
