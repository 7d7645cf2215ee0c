"""What calls of networks take of memory, counted on tensors that have none.

PyTorch's FakeTensorMode, which its compiler traces with, runs every operation on shapes alone, and
as the device would: attention by the kernel that is chosen there, autocast with its copies. Tensors
are counted by their storage while autograd holds them: activations, gradients, copies, and what
checkpointing computes again.

    WithoutMemory  networks, values and work without memory
    LiveBytes      the bytes of the tensors that are alive
    with_scores    attention as runtimes compute it that know no kernel for the whole of it
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffc.models.families.examples import dtype_of
from diffc_export.specs import Inputs, TensorSpec


class WithoutMemory:
    """A place where tensors have shapes and no values."""

    def __init__(self, device: torch.device) -> None:
        """Args: device: The one that the tensors pretend to be on."""
        self.device = device
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._networks: list[nn.Module] = []

    def network(self, skeleton: nn.Module, *, trained: bool) -> nn.Module:
        """Bring a network here, in place.

        Args:
            skeleton: The network, on the meta device.
            trained: Whether its weights get gradients.
        """
        with self._mode:
            for module in skeleton.modules():
                # not by Module.to, which exchanges tensors that FakeTensorMode still refers to
                tensors: Sequence[tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = (
                    (module._parameters, lambda value: nn.Parameter(self._empty(value), trained)),
                    (module._buffers, self._empty),
                )
                for named, new in tensors:
                    named |= {
                        name: new(value) for name, value in named.items() if value is not None
                    }
        self._networks.append(skeleton)
        return skeleton

    def _empty(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, device=self.device)

    def inputs(self, specs: Sequence[TensorSpec], rows: int) -> Inputs:
        """A value (rows, *shape) for each of ``specs``."""
        return self.values({spec.name: (spec.shape, dtype_of(spec)) for spec in specs}, rows)

    def values(
        self, shapes: Mapping[str, tuple[Sequence[int], torch.dtype]], rows: int
    ) -> dict[str, Tensor]:
        """A value (rows, *shape) of each name's shape and type."""
        with self._mode:
            return {
                name: torch.empty((rows, *shape), dtype=dtype, device=self.device)
                for name, (shape, dtype) in shapes.items()
            }

    def peak(self, loss: Callable[[], Tensor], times: int) -> int:
        """The most bytes that are alive, beside weights and inputs, while gradients are taken.

        Args:
            loss: Gives a scalar.
            times: How often one after the other: gradients are there from the second time on.
        """
        with self._mode, LiveBytes(self._networks) as live, torch.enable_grad():
            for _ in range(times):
                torch.autograd.backward(loss())
        peak: int = live.peak
        return peak

    @contextmanager
    def active(self) -> Iterator[None]:
        """Operations inside the block are on tensors without memory."""
        with self._mode:
            yield

    def peak_of_call(self, call: Callable[[], object]) -> int:
        """The most bytes that are alive, beside weights and inputs, in a call without gradients.

        Args:
            call: Runs a network.
        """
        return self.bytes_at(call, {}, {})[0]

    def bytes_at(
        self,
        call: Callable[[], object],
        layers: Mapping[str, nn.Module],
        before: Mapping[str, bool],
    ) -> tuple[int, dict[str, int]]:
        """The same, and the bytes that are alive where layers run.

        Args:
            call: Runs a network once.
            layers: Modules of it, by names.
            before: Name -> True for a look before the module runs, False for one behind it.

        Returns:
            The most, and the bytes at each layer in the order in which they run.
        """
        at: dict[str, int] = {}
        with ExitStack() as stack:
            stack.enter_context(self._mode)
            live: LiveBytes = stack.enter_context(LiveBytes(self._networks))
            stack.enter_context(torch.no_grad())
            for name, layer in layers.items():

                def look(*_: object, name: str = name) -> None:
                    at[name] = live.now

                hook = (
                    layer.register_forward_pre_hook(look)
                    if before[name]
                    else layer.register_forward_hook(look)
                )
                stack.callback(hook.remove)
            call()
        peak: int = live.peak
        return peak, at


def with_scores() -> AbstractContextManager[None]:
    """Attention inside the block has its scores in memory, (rows, heads, tokens, tokens)."""
    return sdpa_kernel(SDPBackend.MATH)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations made and that are still referred to.

    Attributes:
        now: Bytes at this moment.
        peak: The most so far.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Args: networks: Their weights do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        weights = (value for one in networks for value in (*one.parameters(), *one.buffers()))
        self._known = {value.untyped_storage()._cdata for value in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and take note of the memory that its results have."""
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return output

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
