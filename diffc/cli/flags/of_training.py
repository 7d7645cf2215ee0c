"""Flags of what comes after the cut, and of the memory that it may take."""

from __future__ import annotations

from dataclasses import replace

from diffc.cli.flags.flag import QUALITY, WHERE, Flag

_DISTILL_FOR = Flag(
    "distill_for",
    str,
    "all-steps: any loop samples it; loop: it learns --loop, down to one call.",
    path="distill.aim",
    shown="the recipe's, else all-steps",
    group=QUALITY,
)
TRAINING_FLAGS = (
    Flag(
        "repair",
        str,
        "on: least-squares weights right after the cut; off.",
        path="repair.mode",
        shown="on",
        group=QUALITY,
    ),
    Flag(
        "distill_steps",
        int,
        "Training steps at all noise levels; 0 for none. Those for loops are a recipe's "
        "distill.loop.steps.",
        path="distill.steps",
        shown="the recipe's, else 400",
        group=QUALITY,
    ),
    Flag(
        "block_steps",
        int,
        "Steps in which each block learns alone before that, one in memory at a time.",
        path="distill.block_local.steps",
        shown="0",
        group=QUALITY,
    ),
    Flag(
        "distill_rank",
        int,
        "Rank of additions (LoRA) that are trained in place of the weights; 0: the weights.",
        path="distill.low_rank.rank",
        shown="0",
        group=QUALITY,
    ),
    _DISTILL_FOR,
    # a search compares many loops: the aim of a model's own recipe does not count there
    replace(_DISTILL_FOR, key="distill_of_search", name="distill_for", shown="all-steps"),
    Flag(
        "memory",
        str,
        "Memory that a stage may take where networks run, 24GB; chooses micro-batches by it.",
        path="memory",
        group=WHERE,
        metavar="SIZE",
    ),
)
