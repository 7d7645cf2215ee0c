"""The importance stage: how much every channel matters. The same for every ratio."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffc.errors import RequestError
from diffc.models.source import Source
from diffc.prune.importance import score_package
from diffc.recipe import ImportanceSection, Recipe
from diffc.recipe.sections.training import OF_MEMORY, RANKED_BYTES
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import ModelInput, RunShape, SectionInput
from diffc.stage_outcomes import DataOutcome, ImportanceOutcome
from diffc.stage_records import STATE
from diffc.stages.counted_stages import is_by_block, ranked_in_files
from diffc.stages.data import CLEAN, model_packages
from diffc_export.events import Work

if TYPE_CHECKING:
    from pathlib import Path

    from diffc.prune.importance.by_block import GradientSums

SCORES = "importance.safetensors"


@dataclass(frozen=True)
class ImportanceInputs:
    """What scores follow from.

    Attributes:
        model: The dense model.
        data: The clean samples.
        options: How to rank; in how many pieces, and whether block by block, does not change the
            scores.
        depth: Whether branches are scored too.
        shape: What the denoiser's inputs are like.
        seed: Of everything random.
    """

    model: ModelInput
    data: StageResult[DataOutcome]
    options: SectionInput[ImportanceSection]
    depth: bool
    shape: RunShape
    seed: int


def importance_stage(
    source: Source, recipe: Recipe, data: StageResult[DataOutcome]
) -> Stage[ImportanceInputs, ImportanceOutcome]:
    """How much every channel matters."""
    options = recipe.prune.importance
    inputs = ImportanceInputs(
        model=ModelInput.denoiser(source),
        data=data,
        options=SectionInput(options, without=OF_MEMORY),
        depth=recipe.prune.cuts_depth,
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    places = {SCORES: f"{STATE}/{SCORES}"}
    package = score_package(options.method)
    packages = (*model_packages(source), "torch-pruning", *([package] if package else []))
    return Stage(
        "importance", 7, inputs, rank, ImportanceOutcome, places, packages, collective=True
    )


def rank(inputs: ImportanceInputs, folder: StageFolder) -> Work[ImportanceOutcome]:
    """Write a score for every channel of every group, and for every branch where depth is cut."""
    import torch
    from safetensors.numpy import save_file

    from diffc.data.clean import CleanSet
    from diffc.data.precision import best_device
    from diffc.prune.depth.scores import with_branches
    from diffc.prune.importance import importance
    from diffc.prune.importance.base import RowLimit, Subject
    from diffc.prune.importance.by_block import measured_by_block

    source, shape, options = inputs.model.source, inputs.shape, inputs.options.section
    groups = shape.open_on_meta(source).groups()
    by_block: GradientSums | None = None
    records: Path | None = folder.scratch
    with ExitStack() as stack:
        if is_by_block(options):
            denoiser = stack.enter_context(shape.mapped(source))
            by_block = stack.enter_context(
                measured_by_block(denoiser, groups, best_device(), folder.scratch)
            )
        elif shape.wants_sharding((source, RANKED_BYTES)):
            check_channels_alone(inputs.depth)
            denoiser = shape.open_sharded(source, torch.float32, trained=True)
            records = None  # processes must make the same passes
        elif ranked_in_files(options.method, inputs.depth):
            denoiser = stack.enter_context(shape.mapped(source))
        else:
            denoiser = shape.open(source)
            denoiser.model.to(best_device())
        clean = CleanSet.load(inputs.data.folder / CLEAN)
        branches = denoiser.family.branches(denoiser.model)
        pieces = options.gradient_accumulation
        limit = RowLimit(-(-options.batch // pieces) if pieces > 1 else None)
        subject = Subject(denoiser, clean, groups, branches, limit, by_block, records)
        scored = yield from importance(subject, options, inputs.seed)
        if inputs.depth:
            scored = yield from with_branches(subject, scored, inputs.seed, options.branch_rows)
    save_file(dict(scored.scores), folder.out / SCORES)
    return ImportanceOutcome(why=dict(scored.why), groups=len(groups))


def check_channels_alone(depth: bool) -> None:
    """Refuse to score branches on a sharded network: it takes copies, some channels of them cut.

    Args:
        depth: Whether branches are to be scored.

    Raises:
        RequestError: They are.
    """
    if depth:
        raise RequestError(
            "branches are not scored on a sharded network (--cut depth)",
            hint="--cut width, or --shard off",
        )
