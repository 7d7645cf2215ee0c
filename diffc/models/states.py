"""The tensors of a component's weights: their dtypes and shapes alone, or their values.

Pickles are read with ``weights_only=True``, which creates tensors and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from diffc.errors import InputError
from diffc.models.files import TensorEntry
from diffc.models.foreign import foreign_errors
from diffc.models.layout import WeightFiles

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The names of dtypes in safetensors."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_entries(weights: WeightFiles) -> dict[str, TensorEntry]:
    """Return name -> dtype and shape of every tensor, without its values."""
    if not weights.is_pickled:
        return weights.entries()
    entries: dict[str, TensorEntry] = {}
    for path in weights.paths:
        entries |= entries_of(_read_pickle(path, "meta"))
    return entries


def read_state(weights: WeightFiles) -> dict[str, torch.Tensor]:
    """Return name -> tensor, as the files hold them.

    Raises:
        InputError: A file cannot be read.
    """
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    if not weights.is_pickled:
        weights.entries()
    for path in weights.paths:
        if weights.is_pickled:
            state |= _read_pickle(path, "cpu")
        else:
            with foreign_errors(f"{path} cannot be read", hint="copy the file again"):
                state |= load_file(path)
    return state


def entries_of(state: Mapping[str, torch.Tensor]) -> dict[str, TensorEntry]:
    """Return name -> dtype and shape of tensors in memory."""
    return {
        name: TensorEntry(_NAMES.get(value.dtype, str(value.dtype)), tuple(value.shape))
        for name, value in state.items()
    }


def _read_pickle(path: Path, device: str) -> dict[str, torch.Tensor]:
    with foreign_errors(
        f"{path} cannot be read", hint="it may hold more than tensors: convert it to safetensors"
    ):
        value: object = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(value, dict) or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise InputError(
            f"{path} holds more than a model's tensors",
            hint="save model.state_dict() alone, as safetensors",
        )
    return dict(value)
