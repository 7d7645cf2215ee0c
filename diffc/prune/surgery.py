"""The cut: select the kept channels along every dimension of a plan, and leave out branches.

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

from diffc.errors import InputError
from diffc.models.branches import Branch, Unit, remove_branches
from diffc.models.groups import Group
from diffc.models.sizes import follow_shapes, get_tensor, replace_tensor

Keep = Mapping[str, NDArray[np.int64]]
"""Unit's name -> ascending indices of the channels to keep; none of a branch leaves it out."""


def cut(model: nn.Module, units: Sequence[Unit], keep: Keep) -> None:
    """Cut ``model`` in place to what ``keep`` names; units not in it stay whole.

    Args:
        model: The network.
        units: Its groups of channels and its branches.
        keep: The channels to keep.

    Raises:
        InputError: When ``keep`` leaves out a branch that the network does not have.
    """
    groups = [unit for unit in units if isinstance(unit, Group)]
    _cut_channels(model, groups, keep)
    names = {name for name, channels in keep.items() if not len(channels)}
    branches = [unit for unit in units if isinstance(unit, Branch) and unit.name in names]
    unknown = sorted(names - {branch.name for branch in branches})
    if unknown:
        raise InputError(
            f"the plan leaves out '{unknown[0]}', which is no part of this "
            f"{type(model).__name__} that can be left out",
            hint="diffc inspect MODEL lists what can",
        )
    remove_branches(model, branches)


def _cut_channels(model: nn.Module, groups: Sequence[Group], keep: Keep) -> None:
    gone: dict[str, dict[int, NDArray[np.int64]]] = {}
    for (name, dim), positions in removed_positions(groups, keep).items():
        gone.setdefault(name, {})[dim] = positions
    with torch.no_grad():
        for name, dims in gone.items():  # one tensor whole at a time: half cut it is the larger
            new = get_tensor(model, name)
            for dim, positions in dims.items():
                stays = np.setdiff1d(np.arange(new.shape[dim]), positions)
                new = new.index_select(dim, torch.from_numpy(stays).to(new.device))
            replace_tensor(model, name, new.contiguous())
        for group in groups:
            if group.name in keep:
                _keep_temperature(model, group, len(keep[group.name]))
                _set_heads(model, group, len(keep[group.name]))
    follow_shapes(model)


def removed_positions(
    groups: Sequence[Group], keep: Keep
) -> dict[tuple[str, int], NDArray[np.int64]]:
    """(tensor, dim) -> positions to remove, over all groups that lie along it.

    Args:
        groups: Of the dense model.
        keep: The channels to keep; groups that it does not name stay whole.
    """
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


def _set_heads(model: nn.Module, group: Group, kept: int) -> None:
    if group.heads_of is not None:
        attention = model.get_submodule(group.heads_of)
        attention.heads = kept  # type: ignore[assignment]
        if hasattr(attention, "sliceable_head_dim"):
            attention.sliceable_head_dim = kept  # type: ignore[assignment]
