"""Recipe: all sections together."""

from __future__ import annotations

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.sections.build import BuildSection
from diffc.recipe.sections.check import CheckSection
from diffc.recipe.sections.data import DataSection
from diffc.recipe.sections.distill import DistillSection
from diffc.recipe.sections.export import ExportSection
from diffc.recipe.sections.measure import MeasureSection
from diffc.recipe.sections.prune import PruneSection
from diffc.recipe.sections.quality import QualitySection
from diffc.recipe.sections.repair import RepairSection
from diffc.recipe.words import Seed


class Recipe(RecipeSection):
    """Every option of a run."""

    prune: PruneSection = PruneSection()
    data: DataSection = DataSection()
    repair: RepairSection = RepairSection()
    distill: DistillSection = DistillSection()
    export: ExportSection = ExportSection()
    build: BuildSection = BuildSection()
    measure: MeasureSection = MeasureSection()
    quality: QualitySection = QualitySection()
    check: CheckSection = CheckSection()
    seed: Seed = 0

    def for_target(self, name: str) -> Recipe:
        """The recipe with ``build`` as that target has it."""
        return self.model_copy(update={"build": self.build.of(name)})
