"""The distill-blocks stage: each block of the cut model learns alone. OUT/.diffc/blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.models.source import Source, find_source
from diffc.placing import clear_folder
from diffc.recipe import BlockLocalSection, LowRankSection, Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stage_outcomes import BlockLocalOutcome, DataOutcome, PruneOutcome, RepairOutcome
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN, model_packages
from diffc.stages.plan import cuts_nothing
from diffc.stages.prune import PRUNED, CutModel
from diffc.stages.repair import map_repair
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from torch import nn

STAGE, BLOCKS = "distill-blocks", "blocks"


@dataclass(frozen=True)
class BlocksInputs:
    """What the weights of blocks that learnt alone follow from.

    Attributes:
        model: The dense model, which teaches.
        data: The clean samples.
        plan_file: The plan, which says what of each block is left.
        pruned: The cut model.
        repaired: Its weights after the repair.
        options: How to train.
        low_rank: The additions that are trained in the place of the weights, if there are any.
        precision: What forward passes run in.
        shape: What the denoiser's inputs are like.
        seed: Of everything random.
    """

    model: ModelInput
    data: StageResult[DataOutcome]
    plan_file: FileInput
    pruned: StageResult[PruneOutcome]
    repaired: StageResult[RepairOutcome]
    options: BlockLocalSection
    low_rank: LowRankSection
    precision: str
    shape: RunShape
    seed: int


def distill_blocks_stage(
    source: Source,
    recipe: Recipe,
    cut: CutModel,
    repaired: StageResult[RepairOutcome],
) -> Stage[BlocksInputs, BlockLocalOutcome]:
    """Return the stage in which each block learns alone.

    Args:
        source: The dense model.
        recipe: Every option.
        cut: The cut model.
        repaired: The weights of its repair.
    """
    inputs = BlocksInputs(
        model=ModelInput.denoiser(source),
        data=cut.clean,
        plan_file=cut.plan_file,
        pruned=cut.pruned,
        repaired=repaired,
        options=recipe.distill.block_local,
        low_rank=recipe.distill.low_rank,
        precision=_without_scaling(recipe.distill.precision),
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    places = {BLOCKS: f"{STATE}/{BLOCKS}"}
    packages = (*model_packages(source), "accelerate")
    return Stage(STAGE, 1, inputs, distil, BlockLocalOutcome, places, packages)


def _without_scaling(precision: str) -> str:
    """fp16 needs a scaled loss, which blocks do not have."""
    return "fp32" if precision == "fp16" else precision


def distil(inputs: BlocksInputs, folder: StageFolder) -> Work[BlockLocalOutcome]:
    """Write a file of new weights for each block that came nearer to the dense model's."""
    out = folder.out / BLOCKS
    if cuts_nothing(inputs.plan_file.path):
        out.mkdir()
        yield Progress(1, 1, "nothing was cut")
        return BlockLocalOutcome(is_used=False)
    from diffc.data.clean import CleanSet
    from diffc.data.precision import best_device
    from diffc.distill.block_local.blocks import local_blocks
    from diffc.distill.block_local.run import Place, distil_blocks
    from diffc.distill.setup import dtype_of
    from diffc.models.mapped import mapped_denoiser
    from diffc.prune.plan import Plan
    from diffc.prune.surgery import removed_positions

    pruned, device = find_source(inputs.pruned.folder / PRUNED), best_device()
    learnt = folder.scratch / BLOCKS
    learnt.mkdir(exist_ok=True)
    with inputs.shape.mapped(inputs.model.source) as dense, mapped_denoiser(pruned) as cut:
        map_repair(cut, inputs.repaired)
        keep = Plan.read(inputs.plan_file.path).keep()
        groups = inputs.shape.open_on_meta(inputs.model.source).groups()
        removed = removed_positions(groups, keep)
        blocks = local_blocks(dense.model, cut, dense.family, removed)
        clean = CleanSet.load(inputs.data.folder / CLEAN)
        place = Place(device, dtype_of(inputs.precision, device), learnt, folder.scratch)
        outcome = yield from distil_blocks(
            dense, cut, blocks, clean, inputs.options, place, inputs.seed, inputs.low_rank
        )
    learnt.rename(out)
    return outcome


def apply_blocks(model: nn.Module, blocks: StageResult[BlockLocalOutcome]) -> None:
    """Give the cut ``model`` what its blocks learnt, in place."""
    import torch
    from safetensors.torch import load_file

    with torch.no_grad():
        for file in sorted((blocks.folder / BLOCKS).glob("*.safetensors")):
            module = model.get_submodule(file.stem)
            for name, value in load_file(file).items():
                module.get_parameter(name).copy_(value)


def map_blocks(model: nn.Module, blocks: StageResult[BlockLocalOutcome]) -> None:
    """The same for a model on the CPU; the weights stay in their files until they are used."""
    from diffc.models.mapped import map_weights

    for file in sorted((blocks.folder / BLOCKS).glob("*.safetensors")):
        map_weights(model.get_submodule(file.stem), file)


def forget_blocks(out: Path) -> None:
    """Remove what an earlier run left in OUT of blocks that learnt alone."""
    (out / STATE / f"{STAGE}.json").unlink(missing_ok=True)
    clear_folder(out / STATE / BLOCKS)
