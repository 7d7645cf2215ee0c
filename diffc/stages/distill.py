"""The distill stage: the cut model is trained to behave as the dense one. OUT/model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.launch import process_rank
from diffc.models.source import PRUNING_FILE, Source, find_source
from diffc.recipe import DistillSection, Recipe
from diffc.recipe.sections.distill import OF_OTHER_TRAININGS
from diffc.recipe.sections.training import NOT_IN_KEYS, WEIGHT_BYTES
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape, SectionInput
from diffc.stage_outcomes import (
    BlockLocalOutcome,
    DataOutcome,
    DistillOutcome,
    PruneOutcome,
    QualityPoint,
    RepairOutcome,
)
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN, model_packages
from diffc.stages.distill_blocks import apply_blocks, map_blocks
from diffc.stages.plan import cuts_nothing
from diffc.stages.prune import PRUNED, CutModel
from diffc.stages.repair import apply_repair, map_repair
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from torch import nn

    from diffc.data.clean import CleanSet
    from diffc.distill.losses import Kept
    from diffc.distill.run import DistillResult, Judge
    from diffc.models.denoiser import Denoiser

MODEL = "model"
DISTILLED = f"{STATE}/distilled"
"""The place in OUT of the student of all noise levels where OUT/model is that of some loops."""
BEFORE_LORAS = f"{STATE}/before-loras"
"""The place in OUT of the compressed model where OUT/model has LoRAs that came after it."""
_FACTS = ("dense", "compressed", "groups", "groups_cut", "loops")


@dataclass(frozen=True)
class DistillInputs:
    """What the compressed model follows from.

    Attributes:
        model: The dense model, which teaches, with the VAE that decodes its samples.
        parts: What is saved beside the denoiser.
        data: The clean samples.
        plan_file: The plan, which says what the feature loss compares.
        pruned: The cut model.
        repaired: Its weights after the repair.
        blocks: The weights of its blocks that learnt alone; None where none did.
        options: How to train; what only watches the training does not change the model.
        shape: What the denoiser's inputs are like.
        seed: Of everything random.
    """

    model: ModelInput
    parts: ModelInput
    data: StageResult[DataOutcome]
    plan_file: FileInput
    pruned: StageResult[PruneOutcome]
    repaired: StageResult[RepairOutcome]
    blocks: StageResult[BlockLocalOutcome] | None
    options: SectionInput[DistillSection]
    shape: RunShape
    seed: int


def distill_stage(
    source: Source,
    recipe: Recipe,
    cut: CutModel,
    repaired: StageResult[RepairOutcome],
    blocks: StageResult[BlockLocalOutcome] | None,
) -> Stage[DistillInputs, DistillOutcome]:
    """Return the stage that trains the compressed model at all noise levels.

    Args:
        source: The dense model.
        recipe: Every option.
        cut: The cut model.
        repaired: The weights of its repair.
        blocks: Those of its blocks that learnt alone, if any did.
    """
    options = recipe.distill
    inputs = DistillInputs(
        model=ModelInput.denoiser(source),
        parts=ModelInput.parts(source),
        data=cut.clean,
        plan_file=cut.plan_file,
        pruned=cut.pruned,
        repaired=repaired,
        blocks=blocks,
        options=SectionInput(options, without=(*NOT_IN_KEYS, *OF_OTHER_TRAININGS)),
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    packages = (*model_packages(source), "accelerate")
    collective = options.steps > 0 and not cuts_nothing(cut.plan_file.path)
    places = {MODEL: DISTILLED if options.aim == "loop" else model_place(recipe)}
    return Stage(
        "distill", 13, inputs, distill, DistillOutcome, places, packages, collective=collective
    )


def model_place(recipe: Recipe) -> str:
    """The place in OUT of the model that training gives."""
    return BEFORE_LORAS if recipe.adapted_loras else MODEL


def distill(inputs: DistillInputs, folder: StageFolder) -> Work[DistillOutcome]:
    """Train the cut model, or copy it where no steps are asked for or nothing was cut.

    The model from before the training is taken where that is nearer to the dense one; a sharded
    student is not compared.
    """
    pruned = inputs.pruned.folder / PRUNED
    for words, is_so in (
        ("no distillation asked for", inputs.options.section.steps == 0),
        ("nothing was cut", cuts_nothing(inputs.plan_file.path)),
    ):
        if is_so:
            _save_untrained(inputs, folder)
            yield Progress(1, 1, words)
            return DistillOutcome(steps=0, losses=[])
    from diffc.data.clean import CleanSet
    from diffc.data.precision import best_device
    from diffc.data.sharding import reads_weights
    from diffc.distill import train
    from diffc.distill.all_steps import ModelPair
    from diffc.distill.fresh_loss import fresh_loss, why_not_taken
    from diffc.distill.setup import choose_dtype
    from diffc.models.load import meta_denoiser

    options, source, cut = inputs.options.section, inputs.model.source, find_source(pruned)
    each = options.low_rank.bytes_of_student
    shard = inputs.shape.wants_sharding((cut, each), (source, WEIGHT_BYTES))
    if shard:
        teacher = inputs.shape.open_sharded(source, choose_dtype(options, best_device()))
    else:
        teacher = inputs.shape.open(source)
    if reads_weights(shard):
        student = _student(cut, inputs)
    else:
        student = meta_denoiser(cut)
    clean = CleanSet.load(inputs.data.folder / CLEAN)
    judge, notes = quality_judge(inputs.parts.source, options, teacher, clean)
    pair = ModelPair(teacher, student, _kept_channels(inputs))
    # now, for later there would be two students beside each other
    before = None if shard else fresh_loss(pair, clean, options, inputs.seed)
    result = yield from train.distill(
        pair,
        clean,
        options,
        folder.scratch,
        seed=inputs.seed,
        judge=judge,
        logs=folder.logs,
        shard=shard,
    )
    why_not = None
    if before is not None:
        after = fresh_loss(pair, clean, options, inputs.seed)
        why_not = why_not_taken(before, after, options.steps)
    if why_not:
        student = _student(cut, inputs)
    if process_rank() == 0:
        _save(student, inputs, folder)
    return _outcome(result, [*notes, *([why_not] if why_not else ())], is_used=why_not is None)


def _student(cut: Source, inputs: DistillInputs) -> nn.Module:
    """The network as training finds it."""
    from diffc.models.load import load_denoiser

    student = load_denoiser(cut)
    apply_repair(student, inputs.repaired)
    if inputs.blocks is not None:
        apply_blocks(student, inputs.blocks)
    return student


def _save_untrained(inputs: DistillInputs, folder: StageFolder) -> None:
    """The cut model, with its repaired weights if there are some."""
    pruned, repaired = inputs.pruned.folder / PRUNED, inputs.repaired
    blocks_went = "removed" in json.loads((pruned / PRUNING_FILE).read_text("utf-8"))
    learnt = inputs.blocks is not None and inputs.blocks.result.is_used
    if not (repaired.result.is_used or learnt or blocks_went):
        shutil.copytree(pruned, folder.out / MODEL)
        return
    from diffc.models.mapped import mapped_denoiser

    with mapped_denoiser(find_source(pruned)) as model:
        map_repair(model, repaired)
        if inputs.blocks is not None:
            map_blocks(model, inputs.blocks)
        _save(model, inputs, folder)


def _save(model: nn.Module, inputs: DistillInputs, folder: StageFolder) -> None:
    """Write the model; a student that goes on to learn loops keeps the dense model's names."""
    from diffc.models.save import save_compressed

    facts = pruning_facts(inputs.pruned.folder / PRUNED)
    is_last = inputs.options.section.aim != "loop"
    save_compressed(model, inputs.parts.source, folder.out / MODEL, facts, plain=is_last)


def pruning_facts(pruned: Path) -> JsonDict:
    """What pruning.json says of a cut, for a model that is trained from it."""
    summary = json.loads((pruned / PRUNING_FILE).read_text("utf-8"))
    return {name: summary[name] for name in _FACTS if name in summary}


def _outcome(result: DistillResult, notes: list[str], *, is_used: bool) -> DistillOutcome:
    return DistillOutcome(
        steps=result.steps,
        is_used=is_used,
        resumed_from=result.resumed_from,
        losses=result.losses,
        quality=[QualityPoint(step=step, ssim=ssim) for step, ssim in result.quality],
        images_per_second=result.images_per_second,
        precision=result.precision,
        notes=[*result.notes, *notes],
    )


def quality_judge(
    source: Source, options: DistillSection, teacher: Denoiser, clean: CleanSet
) -> tuple[Judge | None, list[str]]:
    """A function that takes the curve of quality, on images, and notes.

    Returns:
        None for the function where no curve is asked for; and, with a note that says why, where
        samples are no images.
    """
    from diffc.data.latents import decode_latents, vae_folder
    from diffc.measure.pictures import picture_shape
    from diffc.measure.quality.ssim import WINDOW, is_image
    from diffc.measure.samples import consistency

    if not options.quality_every:
        return None, []
    shape = picture_shape(source, teacher.sample_shape)
    if shape is None or not is_image(shape):
        least = f"{WINDOW}x{WINDOW}"
        words = shape or teacher.sample_shape
        return None, [f"no curve of quality: samples of {words} are no images of at least {least}"]
    through = partial(decode_latents, source) if vae_folder(source) is not None else None
    return consistency(teacher, clean.conditions, decode=through), []


def _kept_channels(inputs: DistillInputs) -> Kept | None:
    """For the feature loss: which channels of each block's output are still there."""
    if not inputs.options.section.losses.features:
        return None
    from diffc.distill.blocks import kept_channels
    from diffc.prune.plan import Plan

    keep = Plan.read(inputs.plan_file.path).keep()
    dense = inputs.shape.open_on_meta(inputs.model.source)
    return kept_channels(dense.model, dense.family, dense.groups(), keep)
