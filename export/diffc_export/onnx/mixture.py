"""Which layers stay in fp32: those whose error is large for the work that they save.

choose_fp32_layers  the layers, and the error with them
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from diffc_export.events import Progress, Work
from diffc_runtime.errors import CheckFailed

if TYPE_CHECKING:
    from diffc_export.onnx.quantize import QuantizeOptions

_GROUPED_SHARE, GROUPED_MOST = 0.25, 40
"""Trials of groups for each layer, and at most, where layers are not tried one by one."""
_GROUPED_RETURNS = 20
"""Layers that are tried in int8 again there."""


class Trials(Protocol):
    """What tells the error of a mixture (``trials.PrecisionTrials``)."""

    def error(self, kept: Collection[str], limit: float = ..., rows: int | None = ...) -> float: ...

    def sort_rows(self) -> float: ...


def choose_fp32_layers(
    trials: Trials,
    layers: Sequence[str],
    options: QuantizeOptions,
    work: Mapping[str, float],
    *,
    grouped: bool = False,
    precision: str = "int8",
) -> Work[tuple[list[str], float]]:
    """Choose the layers that stay in fp32.

    Layers are measured only if the whole model in int8 exceeds the tolerance. Squared
    errors of single layers nearly add up, so the layers with the largest squared error per MAC go
    to fp32 first, a twentieth of the layers at a time, until the error is within the tolerance;
    then each of them, the most expensive first, returns to int8 if the error allows it. If that
    needs too many layers, the order is by error alone.

    Args:
        trials: Tells the error of a mixture.
        layers: The names of all layers, in the graph's order.
        options: The tolerance, and the largest share of layers in fp32.
        work: Each layer's MACs.
        grouped: Measure groups of layers on the worst row, not each layer on every row, and try
            only the most expensive layers in int8 again: a quarter of the trials, of one call each.
            Before a network is refused, each of its layers is measured so.
        precision: What the other layers are in, int8 or fp8.

    Returns:
        The layers' names, and the error with them in fp32.

    Raises:
        CheckFailed: More than ``keep_most`` of the layers would have to stay in fp32.
    """
    kept: list[str] = []
    error = trials.error(kept, options.tolerance)
    if error <= options.tolerance:
        return kept, error
    measures = _by_groups(trials, layers) if grouped else [_single_errors(trials, layers)]
    for measure in measures:
        errors = yield from measure
        kept, error = yield from _worst_layers(trials, errors, options, work)
        if error <= options.tolerance:
            dearest = sorted(kept, key=lambda name: -work.get(name, 1.0))
            tried = dearest[:_GROUPED_RETURNS] if grouped else dearest
            note = f"which of them {precision} can have after all"
            return (yield from _return_to_int8(trials, kept, error, options.tolerance, tried, note))
    raise CheckFailed(
        f"{precision} leaves an error of {trials.error(kept):.2g} with {options.keep_most:.0%} of "
        f"the layers in fp32; at most {options.tolerance:g} is wanted",
        hint="use bf16 or fp16 for this model",
    )


def _single_errors(trials: Trials, layers: Sequence[str]) -> Work[dict[str, float]]:
    """Return the error for each layer if only that layer is in int8."""
    errors = {}
    for index, name in enumerate(layers):
        yield Progress(index, len(layers), "how sensitive each layer is")
        errors[name] = trials.error([other for other in layers if other != name])
    return errors


def _by_groups(trials: Trials, layers: Sequence[str]) -> Iterator[Work[dict[str, float]]]:
    """Give two measurements of about the same, on the worst row: of groups, then of every layer.

    The second is for a network that would be refused by the first.
    """
    groups = [(-trials.sort_rows(), 0, len(layers))]
    few = max(8, round(_GROUPED_SHARE * len(layers)))
    for count in (min(few, GROUPED_MOST), 2 * len(layers)):
        yield _group_errors(trials, layers, groups, count)


def _group_errors(
    trials: Trials, layers: Sequence[str], groups: list[tuple[float, int, int]], count: int
) -> Work[dict[str, float]]:
    """Halve the group with the largest error, for ``count`` trials, and share errors out.

    Layers of a group are neighbours in the graph, and share its squared error alike.

    Args:
        trials: Tells the error of a mixture.
        layers: The names of all layers.
        groups: (less the error, first layer, end) of each group; changed.
        count: The number of trials; there are fewer where every layer is alone.
    """
    for index in range(0, count, 2):
        yield Progress(index, count, "how sensitive groups of layers are")
        divisible = [group for group in groups if group[2] - group[1] > 1]
        if not divisible:
            break
        worst = min(divisible)
        groups.remove(worst)
        _, first, end = worst
        middle = (first + end) // 2
        for begin, stop in ((first, middle), (middle, end)):
            error = trials.error([*layers[:begin], *layers[stop:]], rows=1)
            groups.append((-error, begin, stop))
    return {
        name: -error / math.sqrt(stop - begin)
        for error, begin, stop in groups
        for name in layers[begin:stop]
    }


def _worst_layers(
    trials: Trials,
    errors: Mapping[str, float],
    options: QuantizeOptions,
    work: Mapping[str, float],
) -> Work[tuple[list[str], float]]:
    """Return the worst layers, as many as are enough in fp32, and the error with them.

    Where as many as are allowed are not enough, the error is above the tolerance.
    """
    kept, error = list[str](), math.inf
    per_work = sorted(errors, key=lambda name: -(errors[name] ** 2) / work.get(name, 1.0))
    for order in (per_work, sorted(errors, key=lambda name: -errors[name])):
        for count in _counts(len(errors), options.keep_most):
            values = {"error": min(error, 1e9)}
            yield Progress(count, len(errors), f"{count} layers in fp32", values)
            kept = order[:count]
            error = trials.error(kept, options.tolerance)
            if error <= options.tolerance:
                return kept, error
    return kept, error


def _return_to_int8(
    trials: Trials,
    kept: list[str],
    error: float,
    tolerance: float,
    candidates: Sequence[str],
    note: str,
) -> Work[tuple[list[str], float]]:
    """Return ``kept`` without those of ``candidates`` that int8 allows, the first tried first."""
    for index, name in enumerate(candidates):
        yield Progress(index, len(candidates), note)
        fewer = [other for other in kept if other != name]
        fewer_error = trials.error(fewer, tolerance)
        if fewer_error <= tolerance:
            kept, error = fewer, fewer_error
    return sorted(kept), error


def _counts(layers: int, most: float) -> Iterator[int]:
    """Give twentieths of the layers, and at last as many as are allowed."""
    step, last = max(layers // 20, 1), int(layers * most)
    yield from range(step, last, step)
    if last:
        yield last
