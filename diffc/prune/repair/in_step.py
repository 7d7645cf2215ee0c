"""Runs many calls of a model in step: each waits at a layer until all are there.

Layers are mended in the order in which they run, each from the inputs that the mended layers before
it give. Calls that wait at a layer, and then go on with its new weights, need one pass through the
network in all; calls begun anew for each layer would need a pass for every layer.

A call runs in a thread of its own, and one runs at a time. A waiting call holds the activations
that the rest of its network still needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AtLayer:
    """Where a call waits.

    Attributes:
        name: The layer.
        value: The layer's input, or its output.
    """

    name: str
    value: Tensor


class WaitingCall:
    """One call of a model, which goes from layer to layer."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._place: AtLayer | None = None
        self._error: BaseException | None = None
        self._is_over, self._is_stopped = False, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def to_next_layer(self) -> AtLayer | None:
        """Run to the next layer that calls wait at; None once the call has ended.

        Raises:
            Exception: What the call raised.
        """
        if self._is_over:
            return None
        self._place = None
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return self._place

    def stop(self) -> None:
        """End the call where it waits, and its thread."""
        if not self._is_over:
            self._is_stopped = True
            self._go.release()
        self._thread.join()

    def wait_at(self, place: AtLayer) -> None:
        """Wait here for the next call of ``to_next_layer`` (for hooks, in the call's thread)."""
        self._place = place
        self._back.release()
        self._go.acquire()
        if self._is_stopped:
            raise _Stopped

    def owns(self, thread: threading.Thread) -> bool:
        """Whether the call runs in ``thread``."""
        return thread is self._thread

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._is_stopped:
                with torch.no_grad():
                    self._work()
        except _Stopped:
            pass
        except BaseException as error:  # raised again where the call's result is waited for
            self._error = error
        self._is_over = True
        self._back.release()


class _Stopped(BaseException):
    """Ends a call that is not wanted any more; no handler of a model's code catches it."""


@contextmanager
def calls_in_step(
    model: nn.Module, names: Sequence[str], works: Sequence[Callable[[], object]], *, after: bool
) -> Iterator[list[WaitingCall]]:
    """Begin calls of ``model`` that wait at the layers ``names``; they end with the block.

    Args:
        model: What the calls run.
        names: Its layers to wait at.
        works: The calls.
        after: True waits behind a layer, with its output; False before it, with its input.
    """
    calls = [WaitingCall(work) for work in works]

    def wait(name: str, value: Tensor) -> None:
        current = threading.current_thread()
        for call in calls:
            if call.owns(current):
                call.wait_at(AtLayer(name, value))

    with ExitStack() as stack:
        for name in names:
            layer = model.get_submodule(name)
            if after:
                hook = layer.register_forward_hook(
                    lambda _layer, _inputs, output, name=name: wait(name, output)
                )
            else:
                hook = layer.register_forward_pre_hook(
                    lambda _layer, inputs, name=name: wait(name, inputs[0])
                )
            stack.callback(hook.remove)
        try:
            yield calls
        finally:
            for call in calls:
                call.stop()
