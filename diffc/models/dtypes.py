"""The dtypes in which a compressed denoiser is saved: those of its original weights."""

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
    """The dtypes of a weights file.

    Attributes:
        common: The dtype of most numbers.
        float32: The names of the tensors that the file keeps in float32 beside them.
    """

    common: torch.dtype
    float32: frozenset[str]

    def of(self, name: str) -> torch.dtype:
        """Return the dtype in which the tensor of that name is saved."""
        return torch.float32 if name in self.float32 else self.common

    def cast(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return ``state`` in the dtypes in which it is saved; integers stay as they are."""
        return {
            name: (value.to(self.of(name)) if value.is_floating_point() else value).contiguous()
            for name, value in state.items()
        }


def stored_dtypes(part: Component, model: nn.Module) -> StoredDtypes:
    """Return the dtypes of a component's weights, by the names of ``model``'s tensors.

    They have at least 16 bits: training went on after the weights were read, and 8 bits would round
    away what it learnt.
    """
    entries = with_current_names(model, read_entries(part.need_weights()))
    names = model.state_dict().keys()  # once: making it walks the whole network
    own = {name: entry for name, entry in entries.items() if name in names}
    counts = _counts(own)
    common = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    wide = frozenset(name for name, entry in own.items() if entry.dtype in ("F32", "F64"))
    return StoredDtypes(common, wide)


def _counts(entries: Mapping[str, TensorEntry]) -> Counter[torch.dtype]:
    """Count the numbers of each dtype; 8-bit ones count as the file's own 16-bit dtype."""
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
