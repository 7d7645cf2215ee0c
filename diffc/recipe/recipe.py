"""Recipe: all sections together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
from diffc.recipe.words import LoopText, LoopTexts, LoraTexts, RunMemory, Seed, Shard


@dataclass(frozen=True)
class _ByHand:
    """The options that the user set. Recipes are equal by their options, wherever these are from.

    Attributes:
        options: Such as ``distill.steps``.
    """

    options: frozenset[str] = field(default=frozenset(), compare=False)


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
        memory: the memory that each stage of a run may take where networks run, such as ``24GB``:
            a GPU's where there is one, else the machine's. Micro-batches and gradient checkpointing
            are then chosen so that it fits, but for what is set by hand.
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
    memory: RunMemory | None = None
    seed: Seed = 0
    _older: tuple[str, ...] = PrivateAttr(())
    _by_hand: _ByHand = PrivateAttr(_ByHand())

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

    @property
    def by_hand(self) -> frozenset[str]:
        """The options, such as ``distill.steps``, that the user's own recipe or flags set."""
        return self._by_hand.options

    def note_by_hand(self, options: Iterable[str]) -> None:
        """Remember which options the user set."""
        self._by_hand = _ByHand(frozenset(options))

    def for_target(self, name: str) -> Recipe:
        """The recipe with ``build`` as that target has it."""
        return self.model_copy(update={"build": self.build.of(name)})
