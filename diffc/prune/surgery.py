"""The cut: select the kept channels along every dimension that a plan names.

Nothing here knows a network: a group's slices say which positions go. Tensors are selected, sizes
that layers repeat in attributes follow the new shapes, heads are told their new number, and the
query is scaled where heads became shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffc.models.groups import Group
from diffc.models.sizes import follow_shapes, get_tensor, replace_tensor

Keep = Mapping[str, NDArray[np.int64]]
"""Group name -> ascending indices of the channels to keep."""


def cut(model: nn.Module, groups: Sequence[Group], keep: Keep) -> None:
    """Cut ``model`` in place to the channels in ``keep``; groups not in it stay whole."""
    with torch.no_grad():
        for (name, dim), gone in _gone(groups, keep).items():
            old = get_tensor(model, name)
            stays = np.setdiff1d(np.arange(old.shape[dim]), gone)
            index = torch.from_numpy(stays).to(old.device)
            replace_tensor(model, name, old.index_select(dim, index).contiguous())
        for group in groups:
            if group.name in keep:
                _keep_temperature(model, group, len(keep[group.name]))
                _tell_heads(model, group, len(keep[group.name]))
    follow_shapes(model)


def _gone(groups: Sequence[Group], keep: Keep) -> dict[tuple[str, int], NDArray[np.int64]]:
    """(tensor, dim) -> positions to remove, over all groups that lie along it."""
    gone: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
    for group in groups:
        if group.name not in keep:
            continue
        channels = np.setdiff1d(np.arange(group.size), keep[group.name])
        for piece in group.slices:
            gone.setdefault((piece.tensor, piece.dim), []).append(piece.index[channels].ravel())
    return {place: np.concatenate(parts) for place, parts in gone.items()}


def _keep_temperature(model: nn.Module, group: Group, kept: int) -> None:
    for name in group.temperature:
        get_tensor(model, name).mul_(math.sqrt(kept / group.size))


def _tell_heads(model: nn.Module, group: Group, kept: int) -> None:
    if group.heads_of is not None:
        attention = model.get_submodule(group.heads_of)
        attention.heads = kept  # type: ignore[assignment]
        if hasattr(attention, "sliceable_head_dim"):
            attention.sliceable_head_dim = kept  # type: ignore[assignment]
