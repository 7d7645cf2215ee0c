"""What a search found, from its contest and its last block."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.measure.frontier.results import Frontier, ratio
from diffc.models.shipped import is_shipped
from diffc.models.source import Source
from diffc.trials.blocks import Block, Meter
from diffc.trials.contest import Contest, Entry
from diffc.trials.goals import DISTANCE, MEMORY, value_words
from diffc.trials.results import CandidateResult, SearchResult, TrialRecord, Untried
from diffc.trials.space import Space


@dataclass(frozen=True)
class Parts:
    """What a result is put together from.

    Attributes:
        space: The candidates.
        contest: What is known of them.
        meter: What all blocks share.
        block: The last block: the times that count.
        records: The trainings.
    """

    space: Space
    contest: Contest
    meter: Meter
    block: Block
    records: Sequence[TrialRecord]


def search_result(parts: Parts, source: Source, out: Path, key: str) -> SearchResult:
    """The result; OUT itself comes after."""
    contest, goals = parts.contest, parts.contest.goals
    best, nearest = contest.best(), contest.nearest()
    trained = sorted((e for e in contest.entries if e.trained is not None), key=lambda e: e.ms)
    shown = best or nearest
    return SearchResult(
        request=key,
        model=source.name,
        target=parts.meter.target,
        goals=goals.by_name,
        goal_words=goals.words(),
        axes={name: list(words) for name, words in parts.space.values.items()},
        frontier=_frontier(parts),
        candidates=[_candidate(parts, entry) for entry in trained],
        untried=[_untried(contest, e) for e in contest.entries if e.trained is None],
        trials=list(parts.records),
        chosen=None if best is None else dict(best.choice),
        nearest=None if best is not None or nearest is None else dict(nearest.choice),
        command="" if shown is None else _command(source, parts.space, shown),
        out=None if best is None else str(out),
    )


def _frontier(parts: Parts) -> Frontier:
    """The block as a report's frontier."""
    block, judging = parts.block, parts.meter.judging
    return Frontier(
        target=parts.meter.target,
        precision=", ".join(parts.space.values["precision"]),
        batch=judging.image.options.batch,
        reference="" if block.reference is None else block.reference.loop,
        seed=judging.seed,
        n=judging.n,
        points=[*block.dense, *block.points.values()],
        noise=block.outcome.noise,
        notes=[*judging.image.options.notes, *block.outcome.notes],
        details=block.outcome.details,
    )


def _candidate(parts: Parts, entry: Entry) -> CandidateResult:
    point, reference = parts.block.points[entry.choice], parts.block.reference
    missed = parts.contest.goals.shortfalls(entry.values)
    return CandidateResult(
        values=dict(entry.choice),
        point=point,
        speedup=None if reference is None else ratio(reference, point),
        memory_bytes=entry.values.get(MEMORY),
        distance=entry.values.get(DISTANCE),
        reaches=entry.out is None and not missed,
        missed=[value_words(name, entry.values.get(name)) for name in missed],
    )


def _untried(contest: Contest, entry: Entry) -> Untried:
    ms = entry.ms if entry.ms < float("inf") else None
    why = contest.why_out(entry) or "its training failed"
    return Untried(values=dict(entry.choice), why=why, latency_ms=ms)


def _command(source: Source, space: Space, entry: Entry) -> str:
    """What compiles a candidate alone."""
    model = source.name if is_shipped(source.name) else str(source.folder)
    flags = [
        (axis.flag, word) for axis in space.axes for name, word in entry.choice if name == axis.name
    ]
    (target,) = space.recipe.build.target
    # the model's own recipe may train for one loop, which a search does where it is told to
    flags.append(("--distill-for", space.recipe.distill.aim))
    flags += [("--lora", text) for text in space.recipe.loras]
    words = [part for flag in flags for part in flag]
    return shlex.join(["diffc", "compile", model, "--target", target, *words])
