"""In which dtypes a compressed denoiser is saved: those of the weights that it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from diffc.models.checking import with_current_names
from diffc.models.components import Component
from diffc.models.files import TensorEntry
from diffc.models.states import DTYPES, read_entries

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class StoredDtypes:
    """The dtype of most of a file's numbers, and the tensors that it keeps in float32 beside."""

    common: torch.dtype
    float32: frozenset[str]

    def of(self, name: str) -> torch.dtype:
        """What the tensor of that name is saved in."""
        return torch.float32 if name in self.float32 else self.common

    def cast(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state as it is saved; integers stay as they are."""
        return {
            name: (value.to(self.of(name)) if value.is_floating_point() else value).contiguous()
            for name, value in state.items()
        }


def stored_dtypes(part: Component, model: nn.Module) -> StoredDtypes:
    """The dtypes of a component's weights, under the names of ``model``'s tensors.

    At least 16 bits wide: the weights were trained on after they were read, and 8 bits would round
    away what was learnt.
    """
    entries = with_current_names(model, read_entries(part.need_weights()))
    own = {name: entry for name, entry in entries.items() if name in model.state_dict()}
    counts = _counts(own)
    common = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    wide = frozenset(name for name, entry in own.items() if entry.dtype in ("F32", "F64"))
    return StoredDtypes(common, wide)


def _counts(entries: Mapping[str, TensorEntry]) -> Counter[torch.dtype]:
    """How many numbers are of each dtype; those of 8 bits count as the file's own 16-bit kind."""
    counts: Counter[torch.dtype] = Counter()
    narrow = 0
    for entry in entries.values():
        dtype = DTYPES.get(entry.dtype, torch.float32)
        if entry.dtype.startswith("F8"):
            narrow += entry.elements
        elif dtype.is_floating_point:
            counts[torch.float32 if dtype == torch.float64 else dtype] += entry.elements
    half = max(_HALVES, key=lambda dtype: counts[dtype])
    counts[half] += narrow
    return counts
