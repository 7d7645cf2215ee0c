"""What exports and engines need of memory beside activations: how often it has their weights.

    graph_bytes    what the process that exports has, without weights
    export_bytes   what a side's ONNX folder needs
    engine_needs   what each target's stages need, from its precision to the ladder

A target says what its engines take in each precision (``TargetFacts.memory``); of those that
it does not name nothing is known. The networks that are not cut (uncut_memory.py) are built beside
the denoisers, the VAE in fp32 always. bench/full_size.py compares each figure with what was
measured (bench/results/full_size_engines.json, full_size_lower.json).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffc.output import DECODER, SIDES
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stages.counted_stages import BENCH, BENCH_WITH_SCORES, TRIALS, CallBytes
from diffc.stages.precision import (
    CALIBRATED,
    EXACT,
    needs_file_of_its_own,
    precision_folder,
    tried_precisions,
)
from diffc.stages.text import LOWERED as LOWERED_TEXTS
from diffc.stages.uncut_memory import VAE_PARTS, UncutPart
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE

if TYPE_CHECKING:
    from diffc_export.targets.base import EngineMemory, OpenMemory, TargetFacts

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
_CONVERTED_BYTES = 100_000_000
"""Of the graphs that are in memory while a file is converted, and of the runtime's sessions."""
_TRIED_COPIES = 4.5
"""How often the largest weight is in memory then: its scales are computed in a wider type, and a
call multiplies its int8 values out."""
_TRIED_CALLS = 1.1
"""The same of the activations of a call, with the least and largest values of each."""
_SHARE = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.25, "fp8": 0.25}
"""Precision -> the bytes of a file's weights over those in fp32, with every layer in it. Which
layers stay in fp32, nobody knows before they are tried."""
Row = tuple[str, int, int]
"""(stage, memory, disk)."""


def is_whole(weights: int) -> bool:
    """Whether an ONNX file has its weights in it, so that it is read whole.

    Args:
        weights: Their bytes.
    """
    return weights <= LARGEST_SINGLE_FILE


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
    return graph_bytes(tensors) + max(_written_bytes(WEIGHT_BYTES * count), calls)


def engine_needs(
    dense: int,
    small: int,
    recipe: Recipe,
    calls: CallBytes,
    uncut: Mapping[str, UncutPart] | None = None,
    *,
    tensor_sizes: Sequence[int],
    shares: Mapping[str, float] | None = None,
) -> Iterator[Row]:
    """(stage, memory, disk) of the stages that convert, build and open engines, in their order.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        recipe: Every option.
        calls: What calls take: ``bench`` and ``bench-scores`` of both engines, ``precision`` of
            the trials of layers.
        uncut: The networks that are not cut, by their folders of OUT/onnx.
        tensor_sizes: Of each parameter tensor of the dense model, in numbers. The compressed one
            has about as many.
        shares: Stage that writes a file in a lower precision -> bytes of that over those of the
            file in fp32, where they are known; else as where every layer is in the precision.
    """
    from diffc_export.targets import target as find_target

    base, largest = graph_bytes(len(tensor_sizes)), max(tensor_sizes, default=0)
    both = _Denoisers({"dense": dense, "compressed": small}, calls, largest, shares or {})
    written = set[str]()
    for name in recipe.build.target:
        own, facts = recipe.for_target(name), find_target(name).facts
        if facts.runs_torch:
            continue
        parts = (uncut or {}) if facts.loader is not None else {}
        precision, decoder = own.build.precision, parts.get(DECODER)
        tried = tried_precisions(name, precision)
        rows = _merge_rows(_of_sides(name, one, both, facts) for one in tried)
        rows = {stage: row for stage, row in rows.items() if stage not in written}
        written.update(rows)  # other targets have the same files
        choice = _choice_bytes(tried, own, both, facts) if precision == "auto" else None
        if choice is not None:
            rows[f"choose-{name}"] = choice, 0
        yield from ((stage, base + needed, disk) for stage, (needed, disk) in rows.items())
        yield from _of_parts(name, precision, parts, facts)
        measuring = (_of_measuring(facts, one, own, both, decoder) for one in tried)
        for stage, (needed, disk) in _merge_rows(measuring).items():
            yield stage, base + needed, disk


@dataclass(frozen=True)
class _Denoisers:
    """Both denoisers of a run, and what is known of their calls and files.

    Attributes:
        counts: Side -> parameters.
        calls: What calls take.
        largest: Parameters of the largest tensor of the dense one.
        shares: Stage that writes a file -> bytes of that over those of the file in fp32.
    """

    counts: Mapping[str, int]
    calls: CallBytes
    largest: int
    shares: Mapping[str, float]

    def size(self, name: str, precision: str, side: str) -> int:
        """Bytes of the weights in the ONNX file that a target's engine is built from."""
        share = 1.0  # a target that is told the precision gets the file in fp32
        if needs_file_of_its_own(name, precision):
            share = self.shares.get(_writing_stage(name, precision, side), _SHARE[precision])
        return round(WEIGHT_BYTES * self.counts[side] * share)


def _writing_stage(name: str, precision: str, side: str) -> str:
    """The stage that writes a side's file in a precision."""
    return f"precision-{precision_folder(name, precision)}-{side}"


def _merge_rows(precisions: Iterable[Iterable[Row]]) -> dict[str, tuple[int, int]]:
    """Stage -> (the most memory in any precision, the disk of all, whose files stay)."""
    merged = dict[str, tuple[int, int]]()
    for rows in precisions:
        for stage, needed, disk in rows:
            most, files = merged.get(stage, (0, 0))
            merged[stage] = max(most, needed), files + disk
    return merged


def _of_sides(name: str, precision: str, both: _Denoisers, facts: TargetFacts) -> Iterator[Row]:
    """The files and the engines of both denoisers in one precision, without the process itself."""
    memory = facts.memory.get(precision)
    for side in SIDES:
        count, weights = both.counts[side], both.size(name, precision, side)
        if needs_file_of_its_own(name, precision):
            part = round(both.largest * count / max(1, both.counts["dense"]))
            converted = _converted_bytes(count, weights, precision, part, both.calls)
            yield _writing_stage(name, precision, side), converted, weights
        if memory is not None:
            yield f"build-{name}-{side}", _build_bytes(weights, memory), weights


def _choice_bytes(
    tried: Sequence[str], own: Recipe, both: _Denoisers, facts: TargetFacts
) -> int | None:
    """The choice of a precision: the compressed engines of all are open while they are timed.

    Then each dense engine is compared with the one in fp32. None where nothing was measured of a
    precision.
    """
    memory = {one: _open_memory(facts, one) for one in tried}
    sizes = {
        (one, side): _open_bytes(both.size(facts.name, one, side), opened)
        for one, opened in memory.items()
        if opened is not None
        for side in SIDES
    }
    exact = memory.get(EXACT)
    if exact is None or len(sizes) < len(SIDES) * len(tried):
        return None
    calls = exact.calls * both.calls.get(BENCH_WITH_SCORES if exact.scores else BENCH, 0)
    timed = sum(sizes[one, "compressed"] for one in tried) + len(tried) / len(SIDES) * calls
    dense, shapes = sizes[EXACT, "dense"], _engine_count(own, exact)  # the timing takes one shape
    beside = [shapes * sizes[one, "dense"] + dense for one in tried if one != EXACT]
    return round(max(timed, max([shapes * dense, *beside]) + calls))


def _of_parts(
    name: str, precision: str, parts: Mapping[str, UncutPart], facts: TargetFacts
) -> Iterator[Row]:
    """The builds of the networks that are not cut.

    Args:
        name: The target.
        precision: Of the run.
        parts: The networks.
        facts: Those of the target.
    """
    for part, needs in parts.items():
        own = precision if part not in VAE_PARTS and precision in LOWERED_TEXTS else "fp32"
        if own in facts.memory:
            is_written = needs_file_of_its_own(name, own)
            needed = _uncut_bytes(needs, own, facts.memory[own], is_written=is_written)
            disk = round(WEIGHT_BYTES * needs.parameters * _SHARE[own])
            yield f"build-{name}-{part}", needed, disk


def _engines_bytes(
    sizes: Mapping[str, int], own: Recipe, calls: CallBytes, opened: OpenMemory
) -> int:
    """Both engines open, with a call of each.

    Args:
        sizes: Side -> bytes of its file's weights.
        own: The target's options.
        calls: What calls of both take.
        opened: What the target's engines take.
    """
    weights = sum(_open_bytes(each, opened) for each in sizes.values())
    called = calls.get(BENCH_WITH_SCORES if opened.scores else BENCH, 0)
    return round(_engine_count(own, opened) * weights + opened.calls * called)


def _of_measuring(
    facts: TargetFacts, precision: str, own: Recipe, both: _Denoisers, decoder: UncutPart | None
) -> Iterator[Row]:
    """The stages that have engines open, with the decoder where images are made.

    The process itself is left out.

    Args:
        facts: Those of the target.
        precision: Of the engines.
        own: The target's options.
        both: The denoisers.
        decoder: The decoder, where there is one.
    """
    name, opened, fp32 = facts.name, _open_memory(facts, precision), _open_memory(facts, EXACT)
    if opened is None:
        return
    graph, images = _decoder_bytes(decoder, own, fp32)
    sizes = {side: both.size(name, precision, side) for side in SIDES}
    engines = graph + _engines_bytes(sizes, own, both.calls, opened)  # the graph stays
    dense, small = (WEIGHT_BYTES * both.counts[side] for side in SIDES)
    plain = 0  # the dense engine in fp32, which a lower precision is compared with
    if precision != EXACT and fp32 is not None:
        plain = _engines_bytes({"dense": dense}, own, {}, fp32)
    yield f"bench-{name}", engines + images, 0
    eager = dense if own.measure.explain != "off" else 0
    student = small if own.distill.aim == "loop" else 0  # before it learned them
    if own.measure.frontier != "off":
        yield f"frontier-{name}", engines + images + eager + student + plain, 0
    if own.measure.explain != "off":
        yield f"explain-{name}", engines + eager + plain, 0


def _decoder_bytes(
    decoder: UncutPart | None, own: Recipe, opened: OpenMemory | None
) -> tuple[int, int]:
    """(of its graph, of its engine and a call of that); nothing where no images are made."""
    if decoder is None or opened is None:
        return 0, 0
    weights = _open_bytes(WEIGHT_BYTES * decoder.parameters, opened)
    engine = _engine_count(own, opened) * weights + _called_bytes(decoder, opened)
    return _GRAPH_BYTES * decoder.tensors, round(engine)


def _open_memory(facts: TargetFacts, precision: str) -> OpenMemory | None:
    """What open engines take, where something was measured."""
    memory = facts.memory.get(precision)
    return None if memory is None else memory.opened


def _engine_count(own: Recipe, opened: OpenMemory) -> int:
    """How many engines of a network the runtime has in memory."""
    sizes = max(1, len(own.export.requested_sizes))
    return len(set(own.build.batch)) * sizes if opened.each_shape else 1


def _converted_bytes(
    count: int, weights: int, precision: str, largest: int, calls: CallBytes
) -> int:
    """What the conversion of a file in fp32 takes, beside the process.

    Args:
        count: Parameters of the network.
        weights: Bytes of those in the precision.
        precision: What it is converted to.
        largest: Parameters of the largest tensor.
        calls: What a call takes by which layers are tried, as ``precision``.
    """
    source = WEIGHT_BYTES * count
    read = _READ_COPIES * source if is_whole(source) else 0
    written = _written_bytes(weights)
    if precision not in CALIBRATED:
        return max(read, written, _CONVERTED_BYTES)
    tried = _TRIED_COPIES * WEIGHT_BYTES * largest + _TRIED_CALLS * calls.get(TRIALS, 0)
    return max(read, _CONVERTED_BYTES + max(written, round(tried)))


def _written_bytes(weights: int) -> int:
    """Of a file's weights, while it is written."""
    return _WRITTEN_COPIES * weights if is_whole(weights) else 0


def _build_bytes(weights: int, memory: EngineMemory) -> int:
    """Of a file's weights and the builder, while an engine is built."""
    read = _READ_COPIES * weights if is_whole(weights) else 0
    return max(read, memory.library + round(memory.built * weights))


def _open_bytes(weights: int, opened: OpenMemory) -> float:
    """Of the weights of an open engine."""
    return weights * (opened.whole if is_whole(weights) else opened.weights)


def _called_bytes(part: UncutPart, opened: OpenMemory) -> float:
    """What a call of an engine takes beside the weights."""
    return opened.calls * (part.scored_calls if opened.scores else part.engine_calls)


def _uncut_bytes(part: UncutPart, precision: str, memory: EngineMemory, *, is_written: bool) -> int:
    """An engine that is compared with torch is opened behind its build, in the same process.

    Args:
        part: The network.
        precision: Its engine's.
        memory: What the target takes in that precision.
        is_written: Whether a file in that precision is written first.
    """
    weights = round(WEIGHT_BYTES * part.parameters * _SHARE[precision])
    most = [_build_bytes(weights, memory)]
    if is_written:
        most.append(_converted_bytes(part.parameters, weights, precision, 0, {}))
    if part.compared and memory.opened is not None:
        opened = memory.opened
        most.append(round(_open_bytes(weights, opened) + _called_bytes(part, opened)))
    return graph_bytes(part.tensors) + max(most)
