"""ONNX Runtime: sessions that compute where they were asked to, and its errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DiffcError, InputError, UnavailableError
from ..files import utf8_path
from ..machine.out_of_memory import out_of_memory

FILE = "model.onnx"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Result = TypeVar("Result")
Provider = str | tuple[str, dict[str, str]]
"""A provider's name, with its options where it has any."""
LARGE_FILE = 256_000_000
"""Bytes of an ONNX file and its weights from which on calls go without a plan of their memory."""
_LIBRARIES_HINT = (
    "its libraries (CUDA, cuDNN) are missing or of another version: pip install "
    "'onnxruntime-gpu[cuda,cudnn]'"
)
_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def session_options(threads: int, file: Path | None = None) -> Any:
    """Return options for every optimisation and ``threads`` threads that never spin between runs.

    Errors are raised, and not logged too. Calls of a large file take long, so that the time which a
    plan of their memory saves is none of theirs; and ONNX Runtime takes one shape's plan for some
    others, whose activations then lie beside it.

    Args:
        threads: Within a layer.
        file: The ONNX file of an engine on the processor.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.enable_mem_pattern = file is None or _bytes(file) < LARGE_FILE
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _bytes(file: Path) -> int:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def open_session(path: Path, options: Any, providers: Sequence[Provider]) -> Any:
    """Return an InferenceSession on the first of ``providers``, and on no other in its place.

    Args:
        path: The ONNX file.
        options: What ``session_options`` returned.
        providers: Where to compute.

    Raises:
        InputError: ONNX Runtime refuses the file; the message has its reason.
        OutOfMemory: Memory ran out.
        UnavailableError: The provider's libraries do not load; ONNX Runtime would take the
            processor then, silently.
    """
    import onnxruntime as ort

    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        with failures_named(f"opening {path}", on_gpu=wanted != CPU):
            # with a fallback it goes on with other providers after an error, and prints so
            session = ort.InferenceSession(
                utf8_path(path), options, providers=list(providers), enable_fallback=0
            )
    except OrtFailed as error:
        raise InputError(f"ONNX Runtime refuses {path}: {error.reason}") from None
    used = list(session.get_providers())
    if used[:1] != [wanted]:
        instead = ", ".join(used) or "nothing"
        message = f"ONNX Runtime cannot load its {wanted}, and would compute with {instead}"
        raise UnavailableError(message, hint=_LIBRARIES_HINT)
    session.disable_fallback()  # the same after an error of a call
    return session


class FirstCalls:
    """The shapes that a session was called with: the first call of each gives its memory back.

    After the first call of a shape ONNX Runtime has a plan by which later ones take one block of
    memory. What the first one took would lie beside that block as long as the session is open. For
    calls on the processor.
    """

    def __init__(self) -> None:
        self._called = set[tuple[tuple[int, ...], ...]]()

    def call(self, inputs: Iterable[Any], run: Callable[[Any], Result]) -> Result:
        """Return what ``run`` gives.

        Args:
            inputs: The arrays of the call.
            run: Runs the session with the run options that it is given.
        """
        shapes = tuple(array.shape for array in inputs)
        if shapes in self._called:
            return run(None)
        import onnxruntime as ort

        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        result = run(options)
        self._called.add(shapes)  # a call that failed left no plan
        return result


class OrtFailed(UnavailableError):
    """ONNX Runtime could not do a call here.

    Args:
        doing: What it was called for.
        reason: Its own words, in one line.
    """

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(f"ONNX Runtime failed while {doing}: {reason}")
        self.reason = reason


def is_own(error: Exception) -> bool:
    """Return True if ONNX Runtime raised ``error``.

    Its classes derive from Exception alone and are private to the extension module, and what its
    C++ code throws besides is a plain RuntimeError.
    """
    return type(error).__module__.startswith("onnxruntime") or type(error) is RuntimeError


def reason(error: Exception) -> str:
    """Return what one of ONNX Runtime's errors says, in one line, without its status."""
    return _STATUS.sub("", " ".join(str(error).split()))[:400] or type(error).__name__


@contextmanager
def failures_named(doing: str, on_gpu: bool) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises inside the block into an error of ours.

    Raises:
        OutOfMemory: It says that memory ran out.
        OrtFailed: It raised anything else.
    """
    try:
        with out_of_memory(doing, on_gpu):
            yield
    except DiffcError:
        raise
    except Exception as error:
        if not is_own(error):
            raise
        raise OrtFailed(doing, reason(error)) from None
