"""What exports and engines need of memory beside activations: how often it has their weights.

    graph_bytes    what the process that exports has, without weights
    export_bytes   what a side's ONNX folder needs
    engine_needs   what each target's stages need, from building to the ladder

A target says what its engines take in fp32 (``TargetFacts.weight_copies``); of other precisions,
and of targets that say nothing, nothing is known. The networks that are not cut (uncut_memory.py)
are built beside the denoisers, the VAE in fp32 always. bench/full_size.py compares each figure with
what was measured (bench/results/full_size_engines.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from diffc.output import DECODER, SIDES
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stages.counted_stages import CallBytes
from diffc.stages.text import LOWERED as LOWERED_TEXTS
from diffc.stages.uncut_memory import VAE_PARTS, UncutPart
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE

if TYPE_CHECKING:
    from diffc_export.targets.base import WeightCopies

EXPORT_BYTES = 460_000_000
"""Of a process that has exported a network, with what imports leave in it."""
_GRAPH_BYTES = 440_000
"""What each of a network's parameter tensors adds to that: graphs grow with the layers, not with
their widths."""
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


def graph_bytes(tensors: int) -> int:
    """Memory of a process that exports a network or builds it, beside the weights.

    Args:
        tensors: How many parameter tensors the network has.
    """
    return EXPORT_BYTES + _GRAPH_BYTES * tensors


def export_bytes(count: int, calls: int, tensors: int) -> int:
    """Memory of the export of one side: the graph is written before torch runs the network.

    Args:
        count: Parameters of the network.
        calls: What its calls at the reference inputs take.
        tensors: The tensors that the parameters are in.
    """
    written = _WRITTEN_COPIES * WEIGHT_BYTES * count if is_whole(count) else 0
    return graph_bytes(tensors) + max(written, calls)


def engine_needs(
    dense: int,
    small: int,
    recipe: Recipe,
    calls: CallBytes,
    uncut: Mapping[str, UncutPart] | None = None,
    *,
    tensors: int = 0,
) -> Iterator[tuple[str, int]]:
    """(stage, memory) of the stages that build and open engines, in their order.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        recipe: Every option.
        calls: What calls of both engines take, as ``bench``.
        uncut: The networks that are not cut, by their folders of OUT/onnx.
        tensors: The parameter tensors of the dense model; the compressed one has about as many.
    """
    from diffc_export.targets import target as find_target

    base = graph_bytes(tensors)
    for name in recipe.build.target:
        own, facts = recipe.for_target(name), find_target(name).facts
        copies, parts = facts.weight_copies, (uncut or {}) if facts.loader is not None else {}
        if copies is None:
            continue
        is_known = own.build.precision == "fp32"
        for side, count in zip(SIDES, (dense, small), strict=True):
            if is_known:
                yield f"build-{name}-{side}", base + round(_build_bytes(count, copies))
        for part, needs in parts.items():
            if is_known or part in VAE_PARTS or own.build.precision not in LOWERED_TEXTS:
                yield f"build-{name}-{part}", _uncut_bytes(needs, copies)
        if is_known:
            decoder = parts.get(DECODER)
            for stage, needed in _of_measuring(name, dense, small, own, calls, copies, decoder):
                yield stage, base + needed


def _of_measuring(
    name: str,
    dense: int,
    small: int,
    own: Recipe,
    calls: CallBytes,
    copies: WeightCopies,
    decoder: UncutPart | None,
) -> Iterator[tuple[str, int]]:
    """The stages that have engines open, with the decoder where images are made.

    The process itself is left out.
    """
    sizes = max(1, len(own.export.requested_sizes))
    engines = len(set(own.build.batch)) * sizes if copies.each_shape else 1
    opened = sum(_open_bytes(count, copies) for count in (dense, small))
    denoisers = round(engines * opened) + copies.calls * calls.get("bench", 0)
    images = 0
    if decoder is not None:
        denoisers += _GRAPH_BYTES * decoder.tensors  # which stays with the process
        images = round(engines * _open_bytes(decoder.parameters, copies))
        images += copies.calls * decoder.engine_calls
    yield f"bench-{name}", denoisers + images
    eager = WEIGHT_BYTES * dense if own.measure.explain != "off" else 0
    student = WEIGHT_BYTES * small if own.distill.aim == "loop" else 0  # before it learned them
    if own.measure.frontier != "off":
        yield f"frontier-{name}", denoisers + images + eager + student
    if own.measure.explain != "off":
        yield f"explain-{name}", denoisers + eager


def _build_bytes(count: int, copies: WeightCopies) -> float:
    """Bytes of the weights while an engine is built."""
    return WEIGHT_BYTES * count * (_READ_COPIES if is_whole(count) else copies.one)


def _open_bytes(count: int, copies: WeightCopies) -> float:
    """Bytes of the weights of an open engine."""
    return WEIGHT_BYTES * count * (copies.one_read_whole if is_whole(count) else copies.one)


def _uncut_bytes(part: UncutPart, copies: WeightCopies) -> int:
    """An engine that is compared with torch is opened behind its build, in the same process."""
    compared = _open_bytes(part.parameters, copies) + copies.calls * part.engine_calls
    built = _build_bytes(part.parameters, copies)
    return graph_bytes(part.tensors) + round(max(built, compared if part.compared else 0))
