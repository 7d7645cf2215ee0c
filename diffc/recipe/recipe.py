"""Recipe: all sections together."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ModelWrapValidatorHandler, PrivateAttr, model_validator

from diffc.recipe.older import without_older
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
from diffc.recipe.sections.text import TextSection
from diffc.recipe.words import LoopText, LoopTexts, LoraTexts, Seed, Shard


class Recipe(RecipeSection):
    """Every option of a run.

    Attributes:
        loops: the loops that the compressed model is sampled with, such as ``dpm++:8``; the first
            is judged, timed and served. Empty: ``reference_loop``.
        reference_loop: the loop of the dense model's images, with which everything is compared;
            None: 50 steps of the sampler that adds no noise (DDIM, or Euler along a flow).
        loras: LoRA files with their weights, such as ``style.safetensors:0.8``, which are fused
            into the model before anything else.
        adapted_loras: the same of LoRAs that are fused after the compression: as they are into the
            dense model, and cut by the plan into the compressed one (``diffc build OUT --lora``).
        shard: ``on`` shards networks over the processes of a launch (FSDP2) in drawing, importance
            and distillation; ``auto`` does where accelerate's configuration has FSDP, and where a
            GPU has no room for whole ones. One process shards nothing.
        seed: of everything random.
    """

    loops: LoopTexts = ()
    reference_loop: LoopText | None = None

    loras: LoraTexts = ()
    adapted_loras: LoraTexts = ()
    prune: PruneSection = PruneSection()
    data: DataSection = DataSection()
    repair: RepairSection = RepairSection()
    distill: DistillSection = DistillSection()
    export: ExportSection = ExportSection()
    text: TextSection = TextSection()
    build: BuildSection = BuildSection()
    measure: MeasureSection = MeasureSection()
    quality: QualitySection = QualitySection()
    check: CheckSection = CheckSection()
    shard: Shard = "auto"
    seed: Seed = 0
    _older: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _read_older(cls, given: object, handler: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        """Options of an older diffc, in today's words."""
        if not isinstance(given, Mapping):
            return handler(given)
        options, notes = without_older(given)
        recipe = handler(options)
        recipe._older = tuple(notes)
        return recipe

    @property
    def older_notes(self) -> list[str]:
        """A sentence for each option of an older diffc that was set."""
        return list(self._older)

    def for_target(self, name: str) -> Recipe:
        """The recipe with ``build`` as that target has it."""
        return self.model_copy(update={"build": self.build.of(name)})
