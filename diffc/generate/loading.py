"""``diffc.load``: a model as a pipeline of diffusers, an output folder as its engine."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from diffc.errors import RequestError
from diffc.generate.opening import OpenRequest, is_opened, open_output
from diffc.output import SIDES
from diffc_export.disks import user_path
from diffc_runtime.keywords import checked_keywords

_CAST = "diffc.load(MODEL).to(torch.float16) casts it"
_MOVED = 'diffc.load(MODEL).to("cuda") moves it'


@checked_keywords(torch_dtype=_CAST, device_map=_MOVED)
def load(
    model: str | Path,
    *,
    allow_pickle: bool = False,
    side: str | None = None,
    target: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Any:
    """Open a model in torch, or an output folder with the engine that runs here.

    Args:
        model: A folder, a hub id, ``demo``, or the folder of a compressed model (``OUT/model``);
            or an output folder of ``diffc.compile`` or a plain bundle, as ``diffc.pipeline`` takes.
        allow_pickle: True accepts a model's .bin weights, which can run code when they are read.
        side: Of an output folder: ``compressed``, which is the usual, or ``dense``.
        target: One of an output folder's targets, or ``torch``; the usual is the fastest here.
        device: Of an output folder: ``cpu`` or ``cuda``.
        dtype: Of an output folder: ``fp32``, ``fp16`` or ``bf16``.

    Returns:
        Of a model diffusers' pipeline, dense or compressed, in float32 and in evaluation mode. Of
        an output folder or a bundle what ``diffc.pipeline`` returns, with its warning where torch
        runs it.

    Raises:
        RequestError: An argument is unknown, or means nothing for a model.
        InputError: The folder is not a pipeline, or its files cannot be used.
        UnavailableError: Nothing in an output folder runs here.
    """
    place = user_path(model, "MODEL")
    if is_opened(place) or side is not None or target is not None:
        usual = SIDES[1] if side is None else side
        opened, note = open_output(OpenRequest(place, usual, target, device, dtype))
        if note is not None:
            warnings.warn(note, stacklevel=3)
        return opened
    for name, value, hint in (("device", device, _MOVED), ("dtype", dtype, _CAST)):
        if value is not None:
            raise RequestError(f"load() takes no '{name}' for a model", hint=hint)
    from diffc.models.load import load_pipeline
    from diffc.models.source import find_source
    from diffc.torch_state import own_state

    with own_state():
        return load_pipeline(find_source(model, allow_pickle=allow_pickle, whole=True))
