"""``diffc.pipeline``: an output folder as a call that makes images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from diffc.errors import RequestError, UnavailableError, unknown, value_words
from diffc.generate import engine
from diffc.output import SIDES, is_output, no_run
from diffc_export.disks import user_path
from diffc_runtime import Pipeline
from diffc_runtime.keywords import checked_keywords

TORCH = "torch"
DEVICES = ("cpu", "cuda")
DTYPES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class OpenRequest:
    """What is opened.

    Attributes:
        out: An output folder.
        side: ``compressed`` or ``dense``.
        target: One of the folder's targets, or ``torch``; None: what is fastest here.
        device: ``cpu`` or ``cuda``; None: any.
        dtype: ``fp32``, ``fp16`` or ``bf16``; None: that of the engine, and fp32 in torch.
    """

    out: Path
    side: str = "compressed"
    target: str | None = None
    device: str | None = None
    dtype: str | None = None


@checked_keywords()
def pipeline(
    out: str | Path,
    *,
    side: str = "compressed",
    target: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Pipeline:
    """Open an output folder to make images with it.

    The engine that was measured as the fastest of those that run here is taken; where none runs,
    torch runs the model, and a warning says why. ``runs_on`` of the result says what it is.
    Sampler, steps, guidance and conditions are by default those of the pictures that the report
    judged, and image i of a seed starts from the same noise.

    Args:
        out: An output folder of ``diffc.compile``, or a plain bundle.
        side: ``compressed``, or ``dense`` for the model that it was made from.
        target: One of the folder's targets, or ``torch``.
        device: ``cpu`` or ``cuda``.
        dtype: ``fp32``, ``fp16`` or ``bf16``.

    Returns:
        A call: ``pipe(n=4, seed=0).images[0].save("a.png")``, and for a model with text encoders
        ``pipe("a red sneaker", guidance_scale=5).images[0].save("a.png")``.

    Raises:
        RequestError: An argument is unknown.
        InputError: ``out`` holds no finished run, or a file of it is damaged.
        UnavailableError: Nothing in it runs here.
    """
    request = OpenRequest(user_path(out, "out"), side, target, device, dtype)
    opened, note = open_output(request)
    if note is not None:
        warnings.warn(note, stacklevel=3)
    return opened


def is_opened(path: Path) -> bool:
    """True of what ``open_output`` opens: an output folder, or a plain bundle."""
    return is_output(path) or (path / "pipeline.json").is_file()


def open_output(request: OpenRequest) -> tuple[Pipeline, str | None]:
    """Return the pipeline, and why torch runs it where an engine was expected; None otherwise."""
    out = request.out
    _check_words(request)
    if is_opened(out) and not is_output(out):
        return _open_bundle(request), None
    if not is_output(out):
        raise no_run(out, "diffc compile makes one; diffc.load opens a model's own folder")
    # text encoders and LoRAs are opened later, when the program may be in another folder
    request = replace(request, out=out.absolute())
    if request.target == TORCH:
        return _open_torch(request), None
    candidates = engine.candidates(request.out, request.side, request.target)
    chosen = [one for one in candidates if one.suits(request.device, request.dtype)]
    reasons: list[str] = []
    for one in chosen:
        opened = engine.try_open(one, reasons)
        if opened is not None:
            return opened, None
    if request.target is not None:
        why = "; ".join(reasons) or f"it is not {_wishes(request)}"
        raise UnavailableError(f"{out}: the engine for '{request.target}' cannot be used: {why}")
    return _fall_back(request, reasons)


def _fall_back(request: OpenRequest, reasons: list[str]) -> tuple[Pipeline, str | None]:
    """torch in the place of engines. Raises UnavailableError where there is no torch either."""
    try:
        opened = _open_torch(request)
    except UnavailableError as error:
        if not reasons:
            raise
        why = f"no engine of {request.out} runs here ({'; '.join(reasons)})"
        raise UnavailableError(f"{why}, and {error}", hint=error.hint) from None
    note = f"no engine of {request.out} runs here ({'; '.join(reasons)}): torch does"
    return opened, note if reasons else None


def _open_torch(request: OpenRequest) -> Pipeline:
    from diffc_export.targets import target

    status = target(TORCH).status()
    if not status.runnable:
        raise UnavailableError(status.reason or "torch does not run here")
    from diffc.generate.torch_model import open_torch

    return open_torch(request.out, request.side, request.device, request.dtype or "fp32")


def _open_bundle(request: OpenRequest) -> Pipeline:
    from diffc_runtime import open_bundle

    opened = open_bundle(request.out)
    built, precision = opened.runs_on.split(maxsplit=1)
    if request.target not in (None, built) or request.side != "compressed":
        raise RequestError(f"{request.out} is a bundle with one engine, for '{built}'")
    if not engine.is_on(built, request.device) or request.dtype not in (None, precision):
        raise UnavailableError(
            f"{request.out}: its engine, {opened.runs_on}, is not {_wishes(request)}",
            hint="diffc bundle writes one of another engine",
        )
    return opened


def _wishes(request: OpenRequest) -> str:
    return " and ".join(word for word in (request.device, request.dtype) if word)


def _check_words(request: OpenRequest) -> None:
    usual: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("side", request.side, SIDES),
        ("device", request.device, (None, *DEVICES)),
        ("dtype", request.dtype, (None, *DTYPES)),
    )
    for kind, word, known in usual:
        if not isinstance(word, str | None) or word not in known:
            raise unknown(kind, word, [str(one) for one in known if one is not None])
    target: object = request.target
    if not isinstance(target, str | None):
        raise RequestError(
            f"target is the name of one, such as 'ort-cpu', not {value_words(target)}"
        )
