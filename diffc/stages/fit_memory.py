"""Settings with which every stage takes no more memory than ``memory`` allows (``--memory 24GB``).

    fit_memory         the recipe with the first settings that fit, and a sentence that says which
    candidates         what one stage may be set to, the cheapest first
    with_settings_of   another recipe with the same settings

Settings are tried in the order of what they cost; none changes a result but for rounding:

1. smaller micro-batches, and fewer samples drawn at a time: the same work in more pieces
2. gradient checkpointing: the student's activations are computed twice, a third more work for it
3. for the importance, one block of the network at a time, its calls made twice

A stage that has room keeps its settings, and so does everything that the user set by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from diffc.errors import RequestError
from diffc.launch import process_count
from diffc.models.source import Source
from diffc.recipe import ImportanceSection, Recipe
from diffc.recipe.sections.training import TrainingSection
from diffc.recipe.words import byte_count
from diffc.stages.by_block import may_be_by_block
from diffc.stages.call_memory import call_bytes
from diffc.stages.counted_stages import WITHOUT_GRADIENTS, draws_samples
from diffc.stages.needs import stage_needs, stages_until, tensor_sizes
from diffc.stages.uncut_memory import uncut_parts
from diffc_runtime.machine.gpu import gpus

SECTIONS = {"importance": "prune.importance", "distill": "distill", "distill-loop": "distill.loop"}
"""The stages that take gradients, in their order, and where their settings are in a recipe."""
_SETTINGS = {"gradient_accumulation", "gradient_checkpointing", "by_block"}
"""The options of these sections that decide their memory."""
_NOT_SURE = {"importance", "prune"}
"""Stages that may take less than their parameters do: block by block, and of what is cut alone."""

Parameters: TypeAlias = tuple[int, int]
"""Of the dense model and of the compressed one."""


def fit_memory(
    source: Source, recipe: Recipe, stop: str, parameters: Parameters | None = None
) -> tuple[Recipe, list[str]]:
    """Choose settings with which every stage up to ``stop`` fits into ``recipe.memory``.

    Args:
        source: The model.
        recipe: Every option.
        stop: The last stage of the run.
        parameters: How many there are; None: by the files' headers and the recipe's ratio.

    Returns:
        The recipe with what was chosen, and a sentence about it where something was.

    Raises:
        RequestError: No setting fits; the message has the least memory that would do. Or what a
            stage takes is not known.
    """
    if recipe.memory is None:
        return recipe, []
    most = byte_count(recipe.memory) or 0.0
    sizes = tensor_sizes(source)
    run = _StageMemory(source, process_count(), parameters or _parameters(source, recipe), sizes)
    run.check_least(recipe, stop, most)
    chosen, short = recipe, dict[str, int]()
    for stage in run.stages(recipe, stop):
        taken: list[int] = []
        for candidate in candidates(chosen, stage, run.processes):
            amount = run.bytes_of(candidate, stage)
            if amount is not None and amount <= most:
                chosen = candidate
                break
            taken += [] if amount is None else [amount]
        else:
            short[stage] = min(taken, default=0)
    if not all(short.values()):
        raise _not_known(next(stage for stage, least in short.items() if not least))
    if short:
        raise _too_small(recipe.memory, short)
    changes = ", ".join(differences(recipe, chosen))
    return chosen, [f"to fit {recipe.memory}: {changes}"] if changes else []


def with_settings_of(recipe: Recipe, fitted: Recipe) -> Recipe:
    """``recipe`` with the settings that another one has of those which decide its memory."""
    for path in SECTIONS.values():
        own = section_at(fitted, path).model_dump(include=_SETTINGS)
        recipe = _with_settings(recipe, path, own)
    return _with_rows(recipe, fitted.data.batch)


def candidates(recipe: Recipe, stage: str, processes: int = 1) -> Iterator[Recipe]:
    """The recipe with every setting that a stage may have, the cheapest first; at first its own.

    Args:
        recipe: Every option.
        stage: The stage.
        processes: How many share each batch of a training.
    """
    if stage not in SECTIONS:
        yield recipe
        rows = min(recipe.data.batch, recipe.data.images)
        while stage == "data" and rows > 1 and _may_draw_fewer(recipe):
            rows = -(-rows // 2)
            yield _with_rows(recipe, rows)
        return
    path = SECTIONS[stage]
    section = section_at(recipe, path)
    rows = max(1, section.batch // processes) if stage != "importance" else section.batch
    pieces = [section.gradient_accumulation]
    while pieces[-1] < rows and f"{path}.gradient_accumulation" not in recipe.by_hand:
        pieces.append(min(rows, 2 * pieces[-1]))
    for more in _more_work(recipe, stage, section):
        for count in pieces:
            yield _with_settings(recipe, path, {"gradient_accumulation": count, **more})


def _may_draw_fewer(recipe: Recipe) -> bool:
    """Whether fewer samples at a time need less, and it is for diffc to choose."""
    return draws_samples(recipe.data) and "data.batch" not in recipe.by_hand


def _with_rows(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with so many samples drawn at a time."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"batch": rows})})


def _more_work(
    recipe: Recipe, stage: str, section: TrainingSection | ImportanceSection
) -> list[dict[str, bool | str]]:
    """What is tried of settings that cost work, where they are for diffc to choose."""
    more: dict[str, bool | str] = {"gradient_checkpointing": True}
    is_free = not getattr(section, "gradient_checkpointing", True)
    if stage == "importance":
        more = {"by_block": "on"}
        is_free = may_be_by_block(recipe.prune.importance)
    if not is_free or any(f"{SECTIONS[stage]}.{option}" in recipe.by_hand for option in more):
        return [{}]
    return [{}, more]


def differences(before: Recipe, after: Recipe) -> Iterator[str]:
    """The settings that ``after`` has otherwise, in words."""
    if before.data.batch != after.data.batch:
        yield f"data.batch {after.data.batch}"
    for path in SECTIONS.values():
        old, new = (section_at(recipe, path).model_dump() for recipe in (before, after))
        if old["gradient_accumulation"] != new["gradient_accumulation"]:
            yield f"{path}.gradient_accumulation {new['gradient_accumulation']}"
        if new.get("gradient_checkpointing") != old.get("gradient_checkpointing"):
            yield f"{path}.gradient_checkpointing"
        if new.get("by_block") != old.get("by_block"):
            yield f"{path}.by_block {new['by_block']}"


def section_at(recipe: Recipe, path: str) -> TrainingSection | ImportanceSection:
    """The section at a path of ``SECTIONS``."""
    section: object = recipe
    for name in path.split("."):
        section = getattr(section, name)
    assert isinstance(section, TrainingSection | ImportanceSection)
    return section


def _with_settings(recipe: Recipe, path: str, settings: Mapping[str, bool | int | str]) -> Recipe:
    own = section_at(recipe, path).model_copy(update=settings)
    first, _, inner = path.partition(".")
    if not inner:
        return recipe.model_copy(update={first: own})
    outer = getattr(recipe, first).model_copy(update={inner: own})
    return recipe.model_copy(update={first: outer})


@dataclass(frozen=True)
class _StageMemory:
    """What stages take of memory.

    Attributes:
        source: The model.
        processes: How many share each batch.
        parameters: Of both networks.
        tensor_sizes: Of each tensor of the dense model, in numbers; none of pickled weights.
    """

    source: Source
    processes: int
    parameters: Parameters
    tensor_sizes: Sequence[int]

    def stages(self, recipe: Recipe, stop: str) -> list[str]:
        """The stages up to ``stop`` whose memory grows with the network."""
        return stages_until(self.source, recipe, stop)

    def check_least(self, recipe: Recipe, stop: str, most: float) -> None:
        """Refuse, before anything is counted, what even weights and their gradients exceed.

        Raises:
            RequestError: A stage takes more than ``most`` bytes, whatever its settings are.
        """
        dense, small = self.parameters
        on_gpu = bool(gpus())
        uncut = uncut_parts(self.source, recipe, count=False)
        needs = stage_needs(
            dense, small, recipe, {}, on_gpu=on_gpu, uncut=uncut, tensor_sizes=self.tensor_sizes
        )
        least = {one.stage: one.gpu_bytes if on_gpu else one.memory_bytes for one in needs}
        wanted = set(self.stages(recipe, stop)) & set(least) - _NOT_SURE
        largest = max(sorted(wanted), key=lambda name: least[name], default="")
        if dense and largest and least[largest] > most:
            words = f"the stage '{largest}' needs at least {-(-least[largest] // 10**6)}MB"
            raise RequestError(
                f"--memory {recipe.memory}: {words}", hint="what its calls take comes on top"
            )

    def bytes_of(self, recipe: Recipe, stage: str) -> int | None:
        """Bytes that a stage takes where networks run; None where they are not known."""
        calls = call_bytes(self.source, self._of_one_process(recipe))
        has_none = stage == "importance" and recipe.prune.importance.method in WITHOUT_GRADIENTS
        if stage in SECTIONS and stage not in calls and not has_none:
            return None
        (dense, small), on_gpu = self.parameters, bool(gpus())
        if not dense:
            return None
        uncut = uncut_parts(self.source, recipe)
        needs = stage_needs(
            dense,
            small,
            recipe,
            calls,
            on_gpu=on_gpu,
            uncut=uncut,
            tensor_sizes=self.tensor_sizes,
        )
        one = next(one for one in needs if one.stage == stage)
        return one.gpu_bytes if on_gpu else one.memory_bytes

    def _of_one_process(self, recipe: Recipe) -> Recipe:
        """The recipe with the batches that one process works."""
        for path in ("distill.loop", "distill"):
            batch = max(1, section_at(recipe, path).batch // self.processes)
            recipe = _with_settings(recipe, path, {"batch": batch})
        return recipe


def _parameters(source: Source, recipe: Recipe) -> Parameters:
    """As the files' headers say; 0 of pickled weights, which have none."""
    dense = sum(tensor_sizes(source))
    return dense, round(dense * (1 - recipe.prune.ratio))


def _not_known(stage: str) -> RequestError:
    return RequestError(
        f"--memory: what the stage '{stage}' takes is not known for this model",
        hint="leave --memory out: a batch that has no room is halved during the run",
    )


def _too_small(memory: str, short: dict[str, int]) -> RequestError:
    """What does not fit, with an amount of memory that does."""
    stage = max(short, key=lambda name: short[name])
    least = -(-short[stage] // 10**6)
    hint = f"--memory {least}MB is the least that would do"
    if stage in SECTIONS:
        hint += "; a higher --ratio, a smaller --resolution or --distill-steps 0 need less"
    if stage.startswith("distill"):
        hint += ", and so does --distill-rank 16, which trains low-rank additions"
    return RequestError(
        f"--memory {memory}: the stage '{stage}' needs at least {least}MB", hint=hint
    )
