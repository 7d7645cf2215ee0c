"""What exports and engines need of memory beside activations: how often it has their weights.

    export_bytes   what a side's ONNX folder needs
    engine_needs   what each target's stages need, from building to the ladder

A target says what its engines take in fp32 (``TargetFacts.weight_copies``); of other precisions,
and of targets that say nothing, nothing is known. bench/full_size.py compares each figure with what
was measured (bench/results/full_size_engines.json).
"""

from __future__ import annotations

from collections.abc import Iterator

from diffc.output import SIDES
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stages.counted_stages import CallBytes
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE

EXPORT_BYTES = 560_000_000
"""Of a process that has exported a network, with what imports and graphs leave in it."""
_WRITTEN_COPIES = 3
"""How often weights that go into the graph's own file are in memory: the graph as written, its
bytes, and the graph as it is read again."""
_READ_COPIES = 5
"""The same of a graph that is read and checked: the graph and its bytes, both in the checker, and
what comes back from it. It is the most of a build, whatever the target does then."""


def is_whole(count: int) -> bool:
    """Whether an ONNX file has its weights in it, so that it is read whole.

    Args:
        count: Parameters of the network.
    """
    return WEIGHT_BYTES * count <= LARGEST_SINGLE_FILE


def export_bytes(count: int, calls: int) -> int:
    """Memory of the export of one side: the graph is written before torch runs the network.

    Args:
        count: Parameters of the network.
        calls: What its calls at the reference inputs take.
    """
    written = _WRITTEN_COPIES * WEIGHT_BYTES * count if is_whole(count) else 0
    return EXPORT_BYTES + max(written, calls)


def engine_needs(
    dense: int, small: int, recipe: Recipe, calls: CallBytes
) -> Iterator[tuple[str, int]]:
    """(stage, memory) of the stages that build and open engines, in their order.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        recipe: Every option.
        calls: What calls of both engines take, as ``bench``.
    """
    from diffc_export.targets import target as find_target

    for name in recipe.build.target:
        own, facts = recipe.for_target(name), find_target(name).facts
        copies = facts.weight_copies
        if copies is None or own.build.precision != "fp32":
            continue
        opened = 0.0
        for side, count in zip(SIDES, (dense, small), strict=True):
            weights, whole = WEIGHT_BYTES * count, is_whole(count)
            building = weights * (_READ_COPIES if whole else copies.one)
            opened += weights * (copies.one_read_whole if whole else copies.one)
            yield f"build-{name}-{side}", EXPORT_BYTES + round(building)
        sizes = max(1, len(own.export.requested_sizes))
        engines = len(set(own.build.batch)) * sizes if copies.each_shape else 1
        open_bytes = EXPORT_BYTES + round(engines * opened) + calls.get("bench", 0)
        yield f"bench-{name}", open_bytes
        eager = WEIGHT_BYTES * dense if own.measure.explain != "off" else 0
        student = WEIGHT_BYTES * small if own.distill.aim == "loop" else 0  # before it learned them
        if own.measure.frontier != "off":
            yield f"frontier-{name}", open_bytes + eager + student
        if own.measure.explain != "off":
            yield f"explain-{name}", open_bytes + eager
