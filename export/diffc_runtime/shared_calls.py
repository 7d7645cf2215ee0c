"""One engine for the loops of several threads: calls that wait at the same time become one call.

    share(pipeline, any_batch=True)             # and then pipeline.generate in several threads

Loops of different prompts, steps and guidance differ in the values of their rows alone, so their
rows can lie side by side in one batch. Nobody waits for others: while the engine runs, calls
gather, and the next call of the engine takes as many as its largest batch holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec

import numpy as np

from .pipeline import Pipeline, smallest_batch
from .values import Array, Denoise

P = ParamSpec("P")
LEAST_SHARED = 8
"""The least number of rows in a shared batch, if the engine serves any batch."""


def share(pipeline: Pipeline, any_batch: bool) -> None:
    """Let several threads call ``pipeline.generate``, and share the engine's calls.

    Args:
        pipeline: The pipeline, which is changed.
        any_batch: Whether its engine serves larger batches than it was measured at.
    """
    batches = list(pipeline.batches)
    if any_batch:
        batches = [(1, max(LEAST_SHARED, pipeline.largest_batch))]
    pipeline.denoise = SharedCalls(pipeline.denoise, batches)
    if pipeline.decode is not None:
        pipeline.decode = _one_at_a_time(pipeline.decode)
    if pipeline.decode_masked is not None:
        pipeline.decode_masked = _one_at_a_time(pipeline.decode_masked)
    if pipeline.loras is not None:
        pipeline.loras.wrap = lambda denoise: SharedCalls(denoise, batches)


def _one_at_a_time(decode: Callable[P, Array]) -> Callable[P, Array]:
    lock = threading.Lock()

    def call(*given: P.args, **named: P.kwargs) -> Array:
        with lock:
            return decode(*given, **named)

    return call


class _Waiting:
    """A call that waits for the engine: its inputs, and its output or what went wrong."""

    def __init__(self, inputs: dict[str, Array]) -> None:
        self.inputs = inputs
        self.rows = len(next(iter(inputs.values())))
        self.output: Array | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether the engine has run for it."""
        return self.output is not None or self.error is not None

    def fits(self, other: _Waiting) -> bool:
        """Return whether both can lie in one batch: images of another size have other shapes."""
        mine, theirs = self.inputs, other.inputs
        return all(theirs[name].shape[1:] == array.shape[1:] for name, array in mine.items())


class SharedCalls:
    """A denoiser's call for several threads.

    Args:
        denoise: The denoiser, which one thread at a time may call.
        batches: (smallest, largest) of each range of batch sizes that it serves.

    Attributes:
        most_rows: The largest number of rows of a call so far.
    """

    def __init__(self, denoise: Denoise, batches: Sequence[tuple[int, int]]) -> None:
        self._denoise, self._batches = denoise, batches
        self._largest = max(high for _, high in batches)
        self._engine, self._list = threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting] = []
        self.most_rows = 0

    def __call__(self, inputs: dict[str, Array]) -> Array:
        """Run the denoiser: inputs by name (B, ...) -> its output (B, ...)."""
        call = _Waiting(inputs)
        with self._list:
            self._waiting.append(call)
        with self._engine:
            if not call.is_done:
                self._run(self._group(call))
        if call.error is not None:
            raise call.error
        assert call.output is not None
        return call.output

    def _group(self, first: _Waiting) -> list[_Waiting]:
        """Take a call from the list, and those that fit into a batch with it."""
        with self._list:
            group, rows = [first], first.rows
            for call in self._waiting:
                if call is first or rows + call.rows > self._largest:
                    continue
                if call.fits(first):
                    group.append(call)
                    rows += call.rows
            self._waiting = [call for call in self._waiting if call not in group]
        return group

    def _run(self, group: list[_Waiting]) -> None:
        """Run the engine once for a group; where that fails, once for each of it."""
        try:
            outputs = self._together(group)
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
                return
            for call in group:  # a wrong value of one is not the others' error
                self._run([call])
            return
        for call, output in zip(group, outputs, strict=True):
            call.output = output

    def _together(self, group: list[_Waiting]) -> list[Array]:
        rows = sum(call.rows for call in group)
        self.most_rows = max(self.most_rows, rows)
        if len(group) == 1:
            return [self._denoise(group[0].inputs)]
        size = smallest_batch(self._batches, rows)
        inputs = {}
        for name, first in group[0].inputs.items():
            inputs[name] = np.zeros((size, *first.shape[1:]), first.dtype)
            np.concatenate([call.inputs[name] for call in group], out=inputs[name][:rows])
        output = self._denoise(inputs)[:rows]
        return np.split(output, np.cumsum([call.rows for call in group])[:-1])
