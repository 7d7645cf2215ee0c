"""TensorRT and TensorRT for RTX: the library and its log, engines, execution contexts.

load_library   the module with its logger, once for each of the two
open_engine    a serialised engine -> the library's engine
TrtContext     one execution context: shapes, addresses, runs
KernelCache    the kernels that TensorRT for RTX compiles at the first run
"""

from __future__ import annotations

import importlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, OutOfMemory
from ..files import write_bytes
from ..machine import cuda, out_of_memory
from ..machine.out_of_memory import bytes_asked, says_so


class Log:
    """The lines that a library has logged since they were last read."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=200)

    def add(self, severity: int, line: str) -> None:
        """Keep one line; lower severity is worse (0 internal error, 1 error, 2 warning)."""
        self._lines.append((severity, line))

    def errors(self) -> list[str]:
        """Return the errors since the last call, without those of a machine without a driver."""
        return [line for severity, line in self._take() if severity <= 1]

    def failure(self, message: str, doing: str) -> InputError | OutOfMemory:
        """Return the error for a call that failed: out of memory, or ``message`` and a reason.

        The reason is the first error. An error says that memory ran out; how much was asked for
        may be in a warning.
        """
        lines = self._take()
        errors = [line for severity, line in lines if severity <= 1]
        if says_so(" ".join(errors)):
            size = bytes_asked("\n".join(line for _, line in lines))
            return out_of_memory.error(doing, size, on_gpu=True)
        reason = " ".join(errors[0].split())[:400] if errors else "no reason given"
        return InputError(f"{message}: {reason}")

    def _take(self) -> list[tuple[int, str]]:
        lines = [(severity, line) for severity, line in self._lines if "cudaError 35" not in line]
        self._lines.clear()
        return lines


@dataclass(frozen=True)
class TrtLibrary:
    """One of the two libraries: its module, its logger, and what was logged.

    A library keeps the first logger that it is given, so there is one of each.
    """

    trt: Any
    logger: Any
    log: Log


LIBRARIES: dict[str, TrtLibrary] = {}
"""Module -> the library, once it is loaded."""


def load_library(module: str) -> TrtLibrary:
    """Import ``tensorrt`` or ``tensorrt_rtx``, or return it if it is loaded.

    Raises:
        ImportError, OSError: It is missing, or one of its own libraries is.
    """
    if module not in LIBRARIES:
        trt, log = importlib.import_module(module), Log()
        LIBRARIES[module] = TrtLibrary(trt, _make_logger(trt, log), log)
    return LIBRARIES[module]


def _make_logger(trt: Any, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, line: str) -> None:
            log.add(int(severity), line)

    return Logger()


def open_engine(library: TrtLibrary, data: Any, failure: str, doing: str) -> Any:
    """Return the library's engine of serialised ``data``.

    Args:
        library: What the engine was built by.
        data: The engine's bytes.
        failure: The message if the library does not take them.
        doing: The work, for the message if memory runs out.

    Raises:
        InputError, OutOfMemory: With the library's reason.
    """
    trt = library.trt
    library.log.errors()
    opened = trt.Runtime(library.logger).deserialize_cuda_engine(data)
    if opened is None:
        raise library.log.failure(failure, doing)
    return opened


class KernelCache:
    """Kernels that TensorRT for RTX compiles when an engine is first used, kept in a file.

    The library checks itself that a cache is of this GPU, driver and version, and leaves it out
    otherwise. TensorRT proper has no such cache: its engines hold their kernels.

    Args:
        engine: The library's engine, as ``open_engine`` returns it.
        path: The cache's file. It is read if it is there, and written by ``save`` alone.
    """

    def __init__(self, engine: Any, path: Path) -> None:
        self._path = path
        self._config = engine.create_runtime_config()
        self._runtime_cache = self._config.create_runtime_cache()
        if path.is_file():
            self._runtime_cache.deserialize(path.read_bytes())
        self._config.set_runtime_cache(self._runtime_cache)

    @property
    def runtime_config(self) -> Any:
        """The library's configuration for execution contexts that use the cache."""
        return self._config

    def save(self) -> None:
        """Write the kernels that were compiled until now to the file, as ``write_cache`` does."""
        write_cache(self._path, bytes(self._runtime_cache.serialize()))


def write_cache(path: Path, data: bytes) -> None:
    """Write a cache's file whole or not at all, beside other writers of the same file.

    A cache that cannot be written (a full disk, a folder of another user) is no reason to fail.
    """
    with suppress(OSError):
        write_bytes(path, data)


class TrtContext:
    """One execution context, in one optimisation profile, on one stream.

    Args:
        library: What the engine was opened by.
        engine: The library's engine.
        stream: Where it runs.
        profile: The profile's index.
        doing: The work, for messages.
        kernels: The kernels of TensorRT for RTX, or None.

    Raises:
        InputError: The library refuses the profile.
        OutOfMemory: There is no room for a context.
    """

    def __init__(
        self,
        library: TrtLibrary,
        engine: Any,
        stream: cuda.Stream,
        profile: int,
        doing: str,
        kernels: KernelCache | None = None,
    ) -> None:
        self._log, self._stream, self.doing = library.log, stream, doing
        options = () if kernels is None else (kernels.runtime_config,)
        self._context = engine.create_execution_context(*options)
        if self._context is None:
            raise self._log.failure(
                f"TensorRT could not make an execution context for profile {profile}",
                "making an execution context",
            )
        accepted = self._context.set_optimization_profile_async(profile, stream.address)
        self._check(accepted, f"profile {profile}")

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape, batch first."""
        self._check(self._context.set_input_shape(name, shape), f"{name} of shape {shape}")

    def place(self, name: str, buffer: cuda.Buffer) -> None:
        """Set where an input is read from, or an output written to."""
        accepted = self._context.set_tensor_address(name, buffer.address)
        self._check(accepted, f"a buffer for '{name}'")

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return an output's shape for the inputs' shapes."""
        return tuple(self._context.get_tensor_shape(name))

    def enqueue(self) -> None:
        """Put one run on the stream. Raises InputError or OutOfMemory with the library's reason."""
        if not self._context.execute_async_v3(self._stream.address):
            raise self._log.failure("TensorRT refused to run the engine", self.doing)

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise self._log.failure(f"TensorRT does not take {what}", self.doing)
