"""The repair: layer by layer in the order in which they run, and judged as a whole at the end.

A layer that reads cut channels gets the weights with which it comes nearest to what the dense layer
gives, on the outputs that are kept, from the inputs that the cut model has there: all layers before
it are mended already. Two decisions are made on rows that fit nothing: a layer that does not come
nearer keeps its weights, and so does the whole network.

Both models are in memory at once, with the activations of all rows that the calls still need.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from diffc.calibration.errors import network_errors
from diffc.calibration.in_step import AtLayer, calls_in_step
from diffc.calibration.noised import NoisedBatch, noised_batches
from diffc.data.batches import halve_batch
from diffc.data.clean import CleanSet
from diffc.data.randomness import keyed_generator
from diffc.models.denoiser import Denoiser
from diffc.models.layer_rows import (
    Layer,
    add_change,
    blocks,
    column_count,
    input_rows,
    output_rows,
    positions,
)
from diffc.prune.repair.layers import Reader, Readers
from diffc.prune.repair.least_squares import Change, Sums, best_change
from diffc.prune.repair.room import rows_with_room
from diffc.stage_outcomes import NetworkErrors, RepairedLayerFigures
from diffc_export.events import Progress, Work
from diffc_runtime.machine.out_of_memory import is_out_of_memory

_POSITIONS = 8
_ROWS_PER_COLUMN = 8
_PLACE = 9


@dataclass(frozen=True)
class Repair:
    """A finished repair.

    Attributes:
        is_used: Whether the repaired network came nearer to the dense one; else the model is as it
            was.
        layers: Every layer that could be mended, in the order in which they run.
        left_alone: Name -> why a layer that reads cut channels was left alone.
        dense, cut, repaired: The errors; ``repaired`` is None where nothing changed.
        samples: How many rows of samples were used, held-out ones included.
        changed: The tensors that are new, by name.
    """

    is_used: bool
    layers: Sequence[RepairedLayerFigures]
    left_alone: Mapping[str, str]
    dense: NetworkErrors
    cut: NetworkErrors
    repaired: NetworkErrors | None
    samples: int
    changed: Mapping[str, Tensor] = field(repr=False)


def repair(
    dense: Denoiser, cut: nn.Module, readers: Readers, clean: CleanSet, *, rows: int, seed: int
) -> Work[Repair]:
    """Give the layers of ``cut`` that read cut channels new weights, in place.

    If the whole network does not come nearer to the dense one, it gets its old weights back.

    Args:
        dense: The model before the cut, on the device to compute on.
        cut: The network after it, on the same device.
        readers: The layers of ``cut`` that read cut channels.
        clean: Clean samples.
        rows: The number of noised samples to use; fewer where memory has no room.
        seed: The seed of noise, timesteps and positions.

    Yields:
        The number of layers that are done.

    Returns:
        What was changed, and the errors before and after.

    Raises:
        OutOfMemory: There is no room for two rows.
    """
    old = {name: value.detach().to("cpu", copy=True) for name, value in _tensors(cut, readers.able)}
    first = noised_batches(dense, clean, 4, seed)[0].inputs
    one = {name: value[:1] for name, value in first.items()}
    rows = rows_with_room(rows, (dense, dense.with_model(cut)), one)
    while True:
        failure: Exception | None = None
        try:
            return (yield from _repaired(dense, cut, readers, clean, rows, seed, old))
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold activations
        _restore(cut, old)
        rows = 2 * halve_batch(rows // 2, "repairing the cut model", failure)
        gc.collect()
        yield Progress(0, None, f"out of memory: going on with {rows} rows")


def _repaired(
    dense: Denoiser,
    cut: nn.Module,
    readers: Readers,
    clean: CleanSet,
    rows: int,
    seed: int,
    old: Mapping[str, Tensor],
) -> Work[Repair]:
    batches = noised_batches(dense, clean, rows, seed)
    judges = [batch for batch in batches if batch.is_held_out]
    student = dense.with_model(cut)
    before = network_errors(student, dense, judges)
    names, reasons = _run_once(dense, student, readers, batches[0])
    able = {name: readers.able[name] for name in names}
    layers, broken = yield from _mend_layers(dense, student, able, batches, seed)
    after = network_errors(student, dense, judges)
    is_used = after.to_dense < before.to_dense  # NaN is no improvement
    if not is_used:
        _restore(cut, old)
    mended = {layer.name: able[layer.name] for layer in layers if layer.ridge is not None}
    changed = {name: value.detach().cpu().clone() for name, value in _tensors(cut, mended)}
    return Repair(
        is_used,
        layers,
        {**readers.reasons, **reasons, **broken},
        network_errors(dense, dense, judges),
        before,
        after if mended else None,
        sum(map(len, batches)),
        changed if is_used else {},
    )


def _tensors(model: nn.Module, names: Mapping[str, Reader]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        for leaf, value in model.get_submodule(name).named_parameters():
            yield f"{name}.{leaf}", value


def _restore(model: nn.Module, old: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in old.items():
            model.get_parameter(name).copy_(value)


@torch.no_grad()
def _run_once(
    dense: Denoiser, student: Denoiser, readers: Readers, batch: NoisedBatch
) -> tuple[list[str], dict[str, str]]:
    """The layers that one call runs once, in both models, and why others are left alone."""
    one = {name: value[:1] for name, value in batch.inputs.items()}
    seen: list[list[str]] = []
    for denoiser in (dense, student):
        order: list[str] = []
        with ExitStack() as stack:
            for name in readers.able:
                layer = denoiser.model.get_submodule(name)
                hook = layer.register_forward_pre_hook(
                    lambda _layer, _inputs, name=name, order=order: order.append(name)
                )
                stack.callback(hook.remove)
            denoiser.call(one)
        seen.append(order)
    reasons = {
        name: f"it runs {counts[1]} times in a call"
        for name in readers.able
        if (counts := [order.count(name) for order in seen]) != [1, 1]
    }
    return [name for name in seen[1] if name not in reasons], reasons


def _mend_layers(
    dense: Denoiser,
    student: Denoiser,
    able: Mapping[str, Reader],
    batches: Sequence[NoisedBatch],
    seed: int,
) -> Work[tuple[list[RepairedLayerFigures], dict[str, str]]]:
    """Mend each layer of ``able``, which are in the order in which they run."""
    names, layers, broken = list(able), list[RepairedLayerFigures](), dict[str, str]()
    theirs = [partial(dense.call, batch.inputs) for batch in batches]
    ours = [partial(student.call, batch.inputs) for batch in batches]
    with (
        calls_in_step(dense.model, names, theirs) as wanted,
        calls_in_step(student.model, names, ours, before=True) as given,
    ):
        for place, name in enumerate(names):
            yield Progress(place, len(names), "repairing the cut model")
            calls = [
                _AtOneLayer(their_call.to_next_layer(), our_call.to_next_layer(), batch)
                for their_call, our_call, batch in zip(wanted, given, batches, strict=True)
            ]
            assert all(call.is_at(name) for call in calls)
            record = _mend(student.model.get_submodule(name), able[name], calls, (seed, place))
            del calls  # or this layer's activations would stay until all calls are at the next one
            if record is None:
                broken[name] = "its activations are not finite"
            else:
                layers.append(record)
    return layers, broken


@dataclass(frozen=True)
class _AtOneLayer:
    """A call of both models that waits: behind the dense layer, and before the cut one."""

    theirs: AtLayer | None
    ours: AtLayer | None
    batch: NoisedBatch

    def is_at(self, name: str) -> bool:
        return all(place is not None and place.name == name for place in (self.theirs, self.ours))

    @property
    def values(self) -> tuple[Tensor, Tensor]:
        """The dense layer's output, and the cut layer's input."""
        assert self.theirs is not None and self.ours is not None
        return self.theirs.output, self.ours.inputs[0]


def _mend(
    layer: nn.Module, reader: Reader, calls: Sequence[_AtOneLayer], key: tuple[int, int]
) -> RepairedLayerFigures | None:
    """Mend one layer block by block, each from what the blocks before it left; None if not finite.

    Each block is a least-squares problem of its own, so that no layer is too wide for memory.
    """
    assert isinstance(layer, Layer)
    changes, columns, rows = list[Change](), 0, 0
    for block in blocks(layer):
        sums = _sums(layer, reader, calls, block, key)
        if not all(one.is_finite for one in sums):
            return None
        change = best_change(*sums)
        if change.weights is not None:
            add_change(layer, change.weights, block)
        changes.append(replace(change, weights=None))
        columns, rows = max(columns, len(sums[0].inputs)), sums[0].rows
    ridges = [change.ridge for change in changes if change.ridge is not None]
    return RepairedLayerFigures(
        name=reader.name,
        before=changes[0].before,
        after=changes[-1].after,
        ridge=max(ridges, default=None),
        rows=rows,
        columns=columns,
    )


@torch.no_grad()
def _sums(
    layer: Layer,
    reader: Reader,
    calls: Sequence[_AtOneLayer],
    block: slice,
    key: tuple[int, int],
) -> tuple[Sums, Sums]:
    """The rows of all calls at the layer, summed: (those that fit, those held out)."""
    seed, place = key
    columns, device = column_count(layer, block), layer.weight.device
    fitted, held_out = (Sums(columns, len(reader.outputs), device) for _ in range(2))
    widest = max(column_count(layer, each) for each in blocks(layer))  # one choice for all blocks
    samples = sum(len(call.batch) for call in calls if not call.batch.is_held_out)
    most = max(_POSITIONS, math.ceil(_ROWS_PER_COLUMN * widest / samples))
    for number, call in enumerate(calls):
        wanted, value = call.values
        output = layer.forward(value)
        chosen = _chosen(layer, output, most, (seed, _PLACE, place, number)).to(output.device)
        goal = output_rows(layer, wanted, chosen)[:, reader.outputs.to(output.device)]
        lack = goal - output_rows(layer, output, chosen)
        sums = held_out if call.batch.is_held_out else fitted
        sums.add(input_rows(layer, value, output, chosen, block), lack, goal)
    return fitted, held_out


def _chosen(layer: Layer, output: Tensor, most: int, key: tuple[int, ...]) -> Tensor:
    """At most ``most`` positions of the output, the same for all samples of a call."""
    order = torch.randperm(positions(layer, output), generator=keyed_generator(*key))
    return order[:most].sort().values
