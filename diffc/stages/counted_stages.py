"""Which stages' calls are counted (call_memory.py), and all that a count follows from: its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from diffc.data.inputs import data_text_tokens
from diffc.data.tensors import is_tensors
from diffc.errors import InputError
from diffc.models.source import Source
from diffc.recipe import DataSection, ImportanceSection, Recipe
from diffc.recipe.sections.training import TrainingSection
from diffc.stages.data import is_drawn
from diffc.stages.precision import CALIBRATED, tried_precisions
from diffc_runtime.machine.cpu import cpu_fingerprint
from diffc_runtime.machine.gpu import gpus
from diffc_runtime.machine.packages import version as package_version

CallBytes: TypeAlias = Mapping[str, int]
"""Stage -> bytes; a stage that is not in it was not counted."""
WITHOUT_GRADIENTS = ("magnitude", "random")
"""Scores of the importance that take no gradients."""
EXPORTS = ("export-dense", "export-compressed")
"""The stages that export both sides."""
BENCH, BENCH_WITH_SCORES = "bench", "bench-scores"
"""A call of both engines, by a runtime that has the scores of attention in memory, and by one that
does not."""
TRIALS = "precision"
"""A call by which layers are tried in int8 or fp8."""
_VERSION = 6
"""Raised whenever the count changes: what was counted before is counted anew."""


def ranked_in_files(method: str, depth: bool) -> bool:
    """Whether the importance reads the weights where they lie: nothing else of it needs memory.

    Args:
        method: The name of the score.
        depth: Whether branches are scored too.
    """
    return method in WITHOUT_GRADIENTS and not depth


def is_by_block(options: ImportanceSection) -> bool:
    """Whether gradients are taken with one block of the network in memory at a time.

    Args:
        options: The recipe's ``prune.importance``; ``auto`` is not decided yet, and counts as off.
    """
    return options.by_block == "on" and options.method not in WITHOUT_GRADIENTS


def counted_stages(recipe: Recipe) -> Iterator[str]:
    """The stages of a run whose calls are counted, in their order."""
    yield "data"
    if recipe.prune.importance.method not in WITHOUT_GRADIENTS:
        yield "importance"
    yield "prune"
    if recipe.repair.mode == "on":
        yield "repair"
    if recipe.distill.block_local.steps:
        yield "distill-blocks"
    if recipe.distill.steps:
        yield "distill"
    if recipe.distill.aim == "loop":
        yield "trajectories"
        yield "distill-loop"
    yield "samples"
    yield from EXPORTS
    yield from (BENCH, BENCH_WITH_SCORES)
    tried = (
        tried_precisions(name, recipe.build.of(name).precision) for name in recipe.build.target
    )
    if any(precision in CALIBRATED for each in tried for precision in each):
        yield TRIALS


def count_key(source: Source, recipe: Recipe, stage: str, plan: Path | None) -> str:
    """A hash of all that a stage's count follows from, of which the steps and rates are none."""
    from diffc.stages.preflight import model_key

    ranking, distill = recipe.prune.importance, recipe.distill
    of_stages: dict[str, list[object]] = {
        "data": data_facts(recipe),
        **{name: [] for name in (*EXPORTS, BENCH, BENCH_WITH_SCORES, TRIALS)},
        "importance": [
            micro_batch(ranking),
            unlike_pieces(ranking),
            ranking.method,
            is_by_block(ranking),
        ],
        "prune": [],
        "repair": [recipe.repair.rows],
        "trajectories": [distill.loop.trajectories, recipe.loops],
        "samples": [recipe.quality.images, recipe.data.images],
        "distill-blocks": [distill.precision, distill.low_rank.rank],
        "distill": _facts(distill, [distill.losses.model_dump(), distill.low_rank.rank]),
        "distill-loop": _facts(distill.loop, [distill.loop.features, distill.low_rank.rank]),
    }
    machine = [cpu_fingerprint(), [gpu.name for gpu in gpus()], package_version("torch")]
    cut = recipe.prune.model_dump(mode="json", exclude={"importance"})
    inputs = [recipe.export.size, data_text_tokens(recipe), recipe.build.model_dump(mode="json")]
    content = plan.read_text("utf-8") if plan is not None else None
    value = [
        _VERSION,
        model_key(source, Recipe()),
        stage,
        of_stages[stage],
        cut,
        inputs,
        machine,
        content,
    ]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def data_facts(recipe: Recipe) -> list[object]:
    """What the memory of the data stage follows from: where samples come from, and how many."""
    data = recipe.data
    given = [draws_samples(data), is_tensors(data.source), data.prompts is not None]
    return [*given, data.images, data.batch, data.guidance]


def draws_samples(data: DataSection) -> bool:
    """Whether the dense model draws the samples; False where a file of tensors cannot be read."""
    with suppress(InputError):
        return is_drawn(data.source)
    return False


def _facts(options: TrainingSection, more: object) -> list[object]:
    return [
        micro_batch(options),
        unlike_pieces(options),
        options.gradient_checkpointing,
        options.precision,
        more,
    ]


def micro_batch(options: TrainingSection | ImportanceSection) -> int:
    """The most rows that are worked at once."""
    return -(-options.batch // options.gradient_accumulation)


def unlike_pieces(options: TrainingSection | ImportanceSection) -> int:
    """How many pieces there are one after the other that differ: the first, and any later one."""
    return min(2, options.gradient_accumulation)
