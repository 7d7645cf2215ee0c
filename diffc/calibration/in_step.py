"""Runs many calls of a model in step: each waits at a layer until all are there.

Layers are mended in the order in which they run, each from the inputs that the mended layers before
it give. Calls that wait at a layer, and then go on with its new weights, need one pass through the
network in all; calls begun anew for each layer would need a pass for every layer.

A call runs in a thread of its own, and one runs at a time. A waiting call holds the activations
that the rest of its network still needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AtLayer:
    """Where a call waits.

    Attributes:
        name: The layer's name.
        inputs: The arguments of the layer's call.
        named: The arguments that the call gives by name.
        output: What the layer returned; None before it has run.
    """

    name: str
    inputs: tuple[Any, ...] = field(repr=False)
    named: Mapping[str, Any] = field(default_factory=dict, repr=False)
    output: Any = field(default=None, repr=False)


class WaitingCall:
    """One call of a model, which goes from layer to layer."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self._work = work
        self._result: Tensor | None = None
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

    @property
    def result(self) -> Tensor:
        """What the call gave; it has ended."""
        assert self._result is not None
        return self._result

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
                    self._result = self._work()
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
    model: nn.Module,
    names: Sequence[str],
    works: Sequence[Callable[[], Tensor]],
    *,
    before: bool = False,
    map_inputs: Callable[[Any], Any] | None = None,
    map_output: Callable[[Any], Any] | None = None,
) -> Iterator[list[WaitingCall]]:
    """Run calls of ``model``, without gradients, that wait at layers; the block's end stops them.

    Args:
        model: The network that the calls run.
        names: The names of the layers at which each call waits.
        works: The calls: functions without arguments, which run ``model`` and return its output.
        before: True: a call waits before a layer, without an output, and nothing is mapped.
        map_inputs: Takes a layer's arguments (the tuple, then the dict of those by name) and
            returns those that the layer is called with. A waiting call shows the former.
        map_output: Takes a layer's output and returns what the network goes on with, and shows.

    Yields:
        A WaitingCall for each of ``works``, in their order; none has begun.
    """
    calls = [WaitingCall(work) for work in works]

    def wait(place: AtLayer) -> None:
        current = threading.current_thread()
        for call in calls:
            if call.owns(current):
                call.wait_at(place)

    given: dict[int, tuple[Any, Any]] = {}  # of the one layer that runs in each thread

    def enter(_: nn.Module, inputs: Any, named: Any, *, name: str) -> Any:
        if before:
            wait(AtLayer(name, inputs, named))
            return None
        given[threading.get_ident()] = inputs, named
        return None if map_inputs is None else (map_inputs(inputs), map_inputs(named))

    def leave(_: nn.Module, _inputs: Any, output: Any, *, name: str) -> Any:
        output = output if map_output is None else map_output(output)
        inputs, named = given.pop(threading.get_ident())
        wait(AtLayer(name, inputs, named, output))
        return output

    with ExitStack() as stack:
        for name in names:
            layer = model.get_submodule(name)
            hook = layer.register_forward_pre_hook(partial(enter, name=name), with_kwargs=True)
            stack.callback(hook.remove)
            if not before:
                hook = layer.register_forward_hook(partial(leave, name=name))
                stack.callback(hook.remove)
        try:
            yield calls
        finally:
            for call in calls:
                call.stop()
