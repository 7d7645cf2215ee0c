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

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from diffc.output import DECODER, SIDES
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.stages.counted_stages import BENCH, BENCH_WITH_SCORES, TRIALS, CallBytes
from diffc.stages.precision import CALIBRATED, needs_file_of_its_own, precision_folder
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
) -> Iterator[tuple[str, int, int]]:
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

    base, written = graph_bytes(len(tensor_sizes)), set[str]()
    largest = max(tensor_sizes, default=0)
    for name in recipe.build.target:
        own, facts = recipe.for_target(name), find_target(name).facts
        precision, parts = own.build.precision, (uncut or {}) if facts.loader is not None else {}
        if facts.runs_torch:
            continue
        memory, fp32 = facts.memory.get(precision), _opened(facts, "fp32")
        sizes = dict[str, int]()
        for side, count in zip(SIDES, (dense, small), strict=True) if precision != "auto" else ():
            stage = f"precision-{precision_folder(name, precision)}-{side}"
            share = (shares or {}).get(stage, _SHARE[precision])
            sizes[side] = weights = round(WEIGHT_BYTES * count * share)
            if needs_file_of_its_own(name, precision) and stage not in written:
                written.add(stage)  # other targets have the same one
                part = round(largest * count / dense) if dense else 0
                converted = _converted_bytes(count, weights, precision, part, calls)
                yield stage, base + converted, weights
            if memory is not None:
                yield f"build-{name}-{side}", base + _build_bytes(weights, memory), weights
        yield from _of_parts(name, precision, parts, facts)
        opened = _opened(facts, precision)
        if opened is not None:
            decoder = _decoder_bytes(parts.get(DECODER), own, fp32)
            engines, plain = _engines_bytes(sizes, own, calls, opened), 0
            if precision != "fp32" and fp32 is not None:  # it is compared with that
                plain = _engines_bytes({"dense": WEIGHT_BYTES * dense}, own, {}, fp32)
            for stage, needed in _of_measuring(name, dense, small, own, engines, decoder, plain):
                yield stage, base + needed, 0


def _of_parts(
    name: str, precision: str, parts: Mapping[str, UncutPart], facts: TargetFacts
) -> Iterator[tuple[str, int, int]]:
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
    name: str,
    dense: int,
    small: int,
    own: Recipe,
    engines: int,
    decoder: tuple[int, int],
    plain: int,
) -> Iterator[tuple[str, int]]:
    """The stages that have engines open, with the decoder where images are made.

    The process itself is left out.

    Args:
        name: The target.
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        own: The target's options.
        engines: Bytes of both engines.
        decoder: Of the decoder's graph, and of its engine.
        plain: Of the dense engine in fp32, which a lower precision is compared with.
    """
    graph, images = decoder
    engines += graph  # which stays with the process
    yield f"bench-{name}", engines + images
    eager = WEIGHT_BYTES * dense if own.measure.explain != "off" else 0
    student = WEIGHT_BYTES * small if own.distill.aim == "loop" else 0  # before it learned them
    if own.measure.frontier != "off":
        yield f"frontier-{name}", engines + images + eager + student + plain
    if own.measure.explain != "off":
        yield f"explain-{name}", engines + eager + plain


def _decoder_bytes(
    decoder: UncutPart | None, own: Recipe, opened: OpenMemory | None
) -> tuple[int, int]:
    """(of its graph, of its engine and a call of that); nothing where no images are made."""
    if decoder is None or opened is None:
        return 0, 0
    weights = _open_bytes(WEIGHT_BYTES * decoder.parameters, opened)
    engine = _engine_count(own, opened) * weights + _called_bytes(decoder, opened)
    return _GRAPH_BYTES * decoder.tensors, round(engine)


def _opened(facts: TargetFacts, precision: str) -> OpenMemory | None:
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
