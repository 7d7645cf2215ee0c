"""What each stage of a run needs of memory and disk: estimates from the number of parameters.

Memory is that beyond the pages of mapped files, which the system takes back when it is short. What
calls take beside the parameters is counted in call_memory.py, what engines take is in
engine_memory.py. bench/full_size.py takes networks through the chain and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from diffc.errors import RequestError
from diffc.recipe import Recipe
from diffc.recipe.sections.training import RANKED_BYTES, WEIGHT_BYTES
from diffc.stages.counted_stages import (
    EXPORTS,
    WITHOUT_GRADIENTS,
    CallBytes,
    draws_samples,
    is_by_block,
    ranked_in_files,
)
from diffc.stages.engine_memory import engine_needs, export_bytes
from diffc.stages.estimate import trainings
from diffc.stages.uncut_memory import UncutPart, uncut_parts
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE
from diffc_runtime.machine.gpu import gpus
from diffc_runtime.machine.out_of_memory import gpu_memory, host_memory, size

if TYPE_CHECKING:
    from diffc.models.source import Source

PROCESS_BYTES = 350_000_000
"""Of a process that has imported torch and diffusers."""
_TENSOR_BYTES = 100_000
"""What each of a network's parameter tensors adds to that behind the repair: its modules were made
and counted several times, and some of the memory in between stays with the process."""
_BEHIND_REPAIR = ("distill-blocks", "distill", "trajectories", "distill-loop", "samples")
_SLACK = 0.9
"""A stage is refused where this share of what it needs is more than there is."""
HALVED = {"repair", "trajectories", "samples"}
"""Stages that work fewer rows at a time where there is no room: nothing is refused for them."""
_SMALL = 0.02
"""A stage whose parameters take less than this share of the memory has room for one row: its
activations are not fifty times the parameters."""


@dataclass(frozen=True)
class StageNeeds:
    """What one stage needs, by an estimate.

    Attributes:
        stage: Its name.
        memory_bytes: Of the machine's memory, beyond mapped files.
        gpu_bytes: Of a GPU's memory, where the work is done there; else 0.
        disk_bytes: What it leaves on the disk.
        seconds: How long it takes; None where that is not known.
    """

    stage: str
    memory_bytes: int
    gpu_bytes: int
    disk_bytes: int
    seconds: float | None = None


def stage_needs(
    dense: int,
    small: int,
    recipe: Recipe,
    calls: CallBytes,
    *,
    tensor_sizes: Sequence[int],
    on_gpu: bool,
    uncut: Mapping[str, UncutPart] | None = None,
    shares: Mapping[str, float] | None = None,
) -> list[StageNeeds]:
    """What the stages of a run need whose memory grows with the network, in their order.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        recipe: Every option.
        calls: What the stages' calls take; of a stage that is not in it activations are left out.
        tensor_sizes: Of each parameter tensor of the dense model, in numbers; none of pickled
            weights.
        on_gpu: Whether networks run on a GPU: it then holds what their stages need, and the
            machine's memory the weights while they are loaded.
        uncut: The networks that are exported beside the denoisers, by their folders of OUT/onnx.
        shares: Stage that writes a file in a lower precision -> bytes of that over those of the
            file in fp32, where they are known; else as where every layer is in the precision.
    """
    uncut = uncut or {}
    stages = []
    for name, device, loading, disk in _networks(dense, small, recipe, calls, on_gpu=on_gpu):
        process = PROCESS_BYTES + (
            _TENSOR_BYTES * len(tensor_sizes) if name in _BEHIND_REPAIR else 0
        )
        host = process + (loading if on_gpu else max(device, loading))
        gpu = device if on_gpu else 0
        stages.append(StageNeeds(name, host, gpu, disk))
    for name, count in zip(EXPORTS, (dense, small), strict=True):
        host = export_bytes(count, calls.get(name, 0), len(tensor_sizes))
        stages.append(StageNeeds(name, host, 0, WEIGHT_BYTES * count))
    for part, one in uncut.items():
        name = f"export-{part}"
        host = export_bytes(one.parameters, one.export_calls, one.tensors)
        disk = WEIGHT_BYTES * one.parameters
        stages.append(StageNeeds(name, host, 0, disk))
    for name, host, disk in engine_needs(
        dense, small, recipe, calls, uncut, tensor_sizes=tensor_sizes, shares=shares
    ):
        stages.append(StageNeeds(name, host, 0, disk))
    return stages


def tensor_sizes(source: Source) -> list[int]:
    """Of each parameter tensor of the dense model, in numbers; none of pickled weights.

    Args:
        source: The model.
    """
    return [entry.elements for entry in source.denoiser.tensors().values()]


def _networks(
    dense: int, small: int, recipe: Recipe, calls: CallBytes, *, on_gpu: bool
) -> Iterator[tuple[str, int, int, int]]:
    """(stage, bytes where the network runs, bytes of the machine anyway, bytes on the disk)."""
    loading, disk = WEIGHT_BYTES * dense, WEIGHT_BYTES * small
    both = WEIGHT_BYTES * (dense + small) if on_gpu else 0  # on a CPU they stay in their files
    drawn = loading if draws_samples(recipe.data) else 0
    yield "data", drawn + calls.get("data", 0), drawn, 0
    if ranked_in_files(recipe.prune.importance.method, recipe.prune.cuts_depth):
        yield "importance", 0, 0, 0
    elif is_by_block(recipe.prune.importance):
        yield "importance", calls.get("importance", 0), 0, 0
    else:
        yield "importance", _ranking_bytes(dense, recipe, calls.get("importance")), loading, 0
    # what is not cut stays in its file; of tensors that are not counted, all are cut
    yield "prune", 0, calls.get("prune", disk), disk
    if recipe.repair.mode == "on":
        yield "repair", both + calls.get("repair", 0), 0, 0
    if recipe.distill.block_local.steps:
        yield "distill-blocks", calls.get("distill-blocks", 0), 0, disk
    training = trainings(dense, small, recipe, calls)
    if "distill" in training:
        yield "distill", training["distill"], loading, disk
    if "distill-loop" in training:
        yield "trajectories", loading + calls.get("trajectories", 0), loading, 0
        read = loading if recipe.distill.loop.features else disk
        yield "distill-loop", training["distill-loop"], read, disk
    yield "samples", both + calls.get("samples", 0), 0, 0


def _ranking_bytes(dense: int, recipe: Recipe, calls: int | None) -> int:
    """Weights, and gradients with activations where these are counted."""
    if recipe.prune.importance.method in WITHOUT_GRADIENTS:
        return WEIGHT_BYTES * dense
    return max(RANKED_BYTES * dense, WEIGHT_BYTES * dense + (calls or 0))


def check_memory(source: Source, recipe: Recipe, stop: str) -> None:
    """Refuse a run before the long work where a stage has no room, even for one row.

    Args:
        source: The model. Of pickled weights the number of parameters is not known here.
        recipe: Every option, with ``by_block`` decided.
        stop: The last stage.

    Raises:
        RequestError: A stage needs more than this machine, or its GPU, has.
    """
    recipe = row_by_row(recipe)
    lack = first_lack(source, recipe, stages_until(source, recipe, stop))
    if lack is not None:
        raise RequestError(
            f"the stage '{lack.stage}' needs about {size(lack.needed)} of memory, {lack.place} has "
            f"{size(lack.there)}",
            hint=_smaller(lack.stage),
        )


_STAGES_OF = {
    "plan": ("data", "importance"),
    "prune": ("prune",),
    "distill": ("repair", "distill", "trajectories", "samples"),
    "export": ("export",),
    "build": ("precision", "build", "choose"),
    "bench": ("bench", "frontier", "explain"),
}
"""Where a run stops -> the first words of the stages' names that it has beyond the stop before."""


def stages_until(source: Source, recipe: Recipe, stop: str) -> list[str]:
    """The stages of a run that must have room, up to the one where it stops, in their order.

    Those that work fewer rows at a time where there is no room are none of them.

    Args:
        source: The model.
        recipe: Every option.
        stop: The last stage, of ``diffc.stages.order.STOPS``.
    """
    wanted: list[str] = []
    for at, words in _STAGES_OF.items():
        wanted += words
        if at == stop:
            break
    uncut = uncut_parts(source, recipe, count=False)
    needs = stage_needs(0, 0, recipe, {}, tensor_sizes=(), on_gpu=False, uncut=uncut)
    names = [one.stage for one in needs]
    return [name for name in names if name not in HALVED and name.split("-")[0] in wanted]


@dataclass(frozen=True)
class Lack:
    """A stage that has no room.

    Attributes:
        stage: Its name.
        place: What has too little, in words.
        needed: Bytes that it needs.
        there: Bytes that there are.
    """

    stage: str
    place: str
    needed: int
    there: int


def first_lack(source: Source, recipe: Recipe, stages: Sequence[str]) -> Lack | None:
    """The first of ``stages`` that needs more than this machine, or its GPU, has; None: none does.

    Args:
        source: The model. Of pickled weights the number of parameters is not known here.
        recipe: Every option.
        stages: Names of stages.
    """
    sizes = tensor_sizes(source)
    dense = sum(sizes)
    small = round(dense * (1 - recipe.prune.ratio))
    gpu, host = gpu_memory() if gpus() else None, host_memory()
    uncut = uncut_parts(source, recipe, count=False)
    needed_by = partial(
        stage_needs, dense, small, recipe, on_gpu=gpu is not None, tensor_sizes=sizes
    )
    needs = needed_by({}, uncut=uncut)
    room = min((there[1] for there in (gpu, host) if there is not None), default=0)
    if any(_is_large(one, dense, room) for one in needs):
        from diffc.stages.call_memory import call_bytes

        needs = needed_by(call_bytes(source, recipe), uncut=uncut_parts(source, recipe))
    for one in needs:
        places = (("this machine", one.memory_bytes, host), ("its GPU", one.gpu_bytes, gpu))
        for place, needed, there in places:
            if one.stage in stages and there is not None and _SLACK * needed > there[1]:
                return Lack(one.stage, place, needed, there[1])
    return None


def _is_large(one: StageNeeds, dense: int, room: int) -> bool:
    """Whether activations of one row may matter beside the parameters."""
    parameters = max(one.gpu_bytes, one.memory_bytes) - PROCESS_BYTES
    return max(parameters, WEIGHT_BYTES * dense) > _SMALL * room


def is_large(source: Source) -> bool:
    """Whether freed memory counts, so that the C library gives it back at once.

    Else it keeps freed memory of each thread for later, between blocks that are in use. Of a
    pipeline whose networks are all small that is little, and giving back takes time.

    Args:
        source: The model. Pickled weights count as small.
    """
    networks = (source.denoiser, *source.components)
    largest = max(sum(one.elements for one in part.tensors().values()) for part in networks)
    return WEIGHT_BYTES * largest > LARGEST_SINGLE_FILE


def row_by_row(recipe: Recipe) -> Recipe:
    """The recipe with micro-batches of one row: a run that has no room for more halves them."""
    ranking, distill = recipe.prune.importance, recipe.distill
    data = recipe.data.model_copy(update={"batch": 1})
    loop = distill.loop.model_copy(update={"gradient_accumulation": distill.loop.batch})
    training = {"gradient_accumulation": distill.batch, "loop": loop}
    single = ranking.model_copy(update={"gradient_accumulation": ranking.batch})
    return recipe.model_copy(
        update={
            "data": data,
            "prune": recipe.prune.model_copy(update={"importance": single}),
            "distill": distill.model_copy(update=training),
        }
    )


def _smaller(stage: str) -> str:
    if stage.startswith("distill"):
        return (
            "gradient_checkpointing, a higher --ratio, --distill-rank 16 or --distill-steps 0 need "
            "less, or use a machine with more memory"
        )
    if stage == "data":
        return (
            "--data with images, or with a .safetensors that has samples, needs no weights in "
            "memory; else use a machine with more memory"
        )
    if stage.startswith(("bench", "frontier", "explain")):
        return (
            "both engines are open at once: a higher --ratio needs less, --explain off and "
            "--frontier off one network less; or use a machine with more memory"
        )
    if stage.startswith("choose"):
        return (
            "several engines are open at once, those of all precisions among them: name a "
            "--precision, or use a machine with more memory"
        )
    if stage.startswith("build") and "-text_encoder" in stage:
        return (
            "--text-encoders off leaves the prompts to the caller; else use a machine with more "
            "memory"
        )
    if stage.startswith("precision"):
        return "--precision fp32 converts nothing; else use a machine with more memory"
    if stage == "importance":
        return "--importance magnitude needs no gradients; else use a machine with more memory"
    return "use a machine with more memory"
