"""The state of PyTorch, of warnings and of the environment in which diffc works.

diffc's results must not depend on the state in which its caller left PyTorch, above all because
they are kept in a cache under keys that know nothing of the caller; and a call must leave no trace.

    own_state   a context (or decorator) that sets diffc's own state and restores the caller's
    survive_forks  lets a process that is forked off run what this one has opened
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from diffc.launch import is_launched, without_leftovers

_CUDNN = {"enabled": True, "benchmark": False, "deterministic": False, "allow_tf32": True}
"""PyTorch's own defaults for convolutions on GPUs."""
SEED = 0
"""The seed of the global generators inside, so that draws from them are equal in every run."""


@contextmanager
def own_state(*, needs_torch: bool = False) -> Iterator[None]:
    """Run the block in diffc's own state, and restore the caller's however the block ends.

    Inside: gradients on, no inference mode, no autocast, float32 and the CPU by default, precise
    matrix products, cuDNN's own defaults, no demand for deterministic kernels, seeded generators,
    no leftovers of a launch in the environment. Also restored: filters of warnings, PyTorch's
    threads, and accelerate's knowledge of its processes.

    Args:
        needs_torch: True imports PyTorch. If False and PyTorch is not imported yet, the caller has
            no state of it to restore.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(without_leftovers())
        stack.enter_context(_seeded_python())
        if needs_torch or "torch" in sys.modules:
            stack.enter_context(_torch_state())
        if not is_launched():
            stack.enter_context(_own_accelerate())
        yield


@cache
def survive_forks() -> None:
    """Let a process that is forked off run networks: with one thread of its own.

    PyTorch's other threads stay in the parent, and the child would wait for them without end. As
    PyTorch's own loaders of data do in their workers.
    """
    import torch

    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def _seeded_python() -> Iterator[None]:
    """Seed the global generators of Python, and of NumPy if it is imported."""
    state = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    random.seed(SEED)
    if numpy is not None:
        numpy.random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


@contextmanager
def _torch_state() -> Iterator[None]:
    import torch

    with ExitStack() as stack:
        stack.enter_context(_settings())
        has_gpus = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        devices = list(range(torch.cuda.device_count())) if has_gpus else []
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_no_autocast())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        torch.manual_seed(SEED)
        yield


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Leave every autocast.

    A disabled autocast inside the caller's is not enough: casts of weights are kept until the
    outermost one ends, so training inside it would go on with the weights of its first step.
    """
    import torch

    kinds = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        for _ in range(depth):
            torch.autocast_increment_nesting()
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)


@contextmanager
def _settings() -> Iterator[None]:
    """Set the switches for which PyTorch has no context."""
    import torch

    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    cudnn = {name: getattr(torch.backends.cudnn, name) for name in _CUDNN}
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    for name, value in _CUDNN.items():
        setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        for name, value in cudnn.items():
            setattr(torch.backends.cudnn, name, value)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def _own_accelerate() -> Iterator[None]:
    """Give accelerate a new state of the process and restore the caller's afterwards.

    All users of accelerate in the process share that state.
    """
    before = {name: dict(shared) for name, shared in _shared_states().items()}
    for shared in _shared_states().values():
        shared.clear()
    try:
        yield
    finally:
        for name, shared in _shared_states().items():
            shared.clear()
            shared.update(before.get(name, {}))


def _shared_states() -> dict[str, dict[str, Any]]:
    state: Any = sys.modules.get("accelerate.state")
    if state is None:
        return {}
    names = ("PartialState", "AcceleratorState", "GradientState")
    return {name: getattr(state, name)._shared_state for name in names}
