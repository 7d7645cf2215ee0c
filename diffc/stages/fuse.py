"""The fuse stage: LoRAs of the dense model, cut by the plan, in the compressed model. OUT/model.

It follows the training, so that another LoRA costs no other plan, cost table or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.models.source import Source, find_source
from diffc.placing import clear_folder
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stage_outcomes import DistillOutcome, FusedLora, FuseOutcome
from diffc.stage_records import STATE
from diffc.stages.data import model_packages
from diffc.stages.distill import BEFORE_LORAS, MODEL, pruning_facts
from diffc_export.events import Progress, Work

FUSE = "fuse-loras"


@dataclass(frozen=True)
class FuseInputs:
    """What the compressed model with LoRAs follows from.

    Attributes:
        model: The dense model with its LoRAs.
        parts: What is saved beside the denoiser: text encoders have their LoRAs.
        plan_file: What was kept of the dense model.
        distilled: The compressed model.
        shape: What the denoiser's inputs are like.
    """

    model: ModelInput
    parts: ModelInput
    plan_file: FileInput
    distilled: StageResult[DistillOutcome]
    shape: RunShape


def fuse_stage(
    source: Source,
    recipe: Recipe,
    plan_file: FileInput,
    distilled: StageResult[DistillOutcome],
) -> Stage[FuseInputs, FuseOutcome]:
    """The compressed model with LoRAs."""
    inputs = FuseInputs(
        model=ModelInput.denoiser(source),
        parts=ModelInput.parts(source),
        plan_file=plan_file,
        distilled=distilled,
        shape=RunShape.of(recipe),
    )
    return Stage(FUSE, 1, inputs, fuse, FuseOutcome, {MODEL: MODEL}, model_packages(source))


def fuse(inputs: FuseInputs, folder: StageFolder) -> Work[FuseOutcome]:
    """Cut the LoRAs, add them, and save the pipeline."""
    from diffc.models.load import load_denoiser
    from diffc.models.save import save_compressed, write_scheduler
    from diffc.prune.lora import fuse_cut
    from diffc.prune.plan import Plan

    source, before = inputs.model.source, inputs.distilled.folder / MODEL
    yield Progress(0, 1, "fusing LoRAs")
    compressed = find_source(before)
    model = load_denoiser(compressed)
    plan = Plan.read(inputs.plan_file.path)
    done = fuse_cut(model, source, inputs.shape.specs(source), plan)
    facts = {**pruning_facts(before), "loras": [lora.words for lora in source.adapted]}
    save_compressed(model, inputs.parts.source, folder.out / MODEL, facts)
    if compressed.scheduler != source.scheduler:  # a student of loops has a scheduler of its own
        write_scheduler(folder.out / MODEL, compressed.scheduler)
    return FuseOutcome(
        loras=[
            FusedLora(
                name=lora.path.name,
                weight=lora.weight,
                layers=len(cut.pairs),
                left_out=list(cut.left_out),
            )
            for lora, cut in done
        ]
    )


def forget_fused(out: Path) -> None:
    """Remove what an earlier run left in OUT of a compressed model before its LoRAs."""
    (out / STATE / f"{FUSE}.json").unlink(missing_ok=True)
    clear_folder(out / BEFORE_LORAS)
