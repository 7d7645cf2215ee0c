"""A network that lost whole blocks and nothing else, as its own class has it: fewer layers.

Such a network needs no code of diffc: a config with a smaller ``num_layers`` says the same, and its
blocks are numbered anew. Anything else that was cut (channels, heads, a branch inside a block, a
block that is unlike the others) is in no config, and the network is then written as a cut one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from diffc.errors import InputError
from diffc.models.branches import Shortcut, removed_branches
from diffc.models.cut import skeleton
from diffc.models.families.base import Family
from diffc_runtime.json_types import JsonObject


@dataclass(frozen=True)
class Shallower:
    """A network of fewer layers.

    Attributes:
        entries: The entries of its config that say how many layers there are.
        names: Name of a tensor of the cut network -> its name in a class with so few layers.
        kept: List of blocks -> the numbers that its blocks had before, in their order.
    """

    entries: Mapping[str, int]
    names: Mapping[str, str]
    kept: Mapping[str, list[int]]


def as_shallower(model: nn.Module, known: Family, config: JsonObject) -> Shallower | None:
    """The network as its class has it with fewer layers; None where that says less than the cut.

    Args:
        model: The cut network.
        known: Its family.
        config: The config before the cut.
    """
    kept = _kept_blocks(model, known)
    if kept is None:
        return None
    fewer = {known.depth_entries[name]: len(blocks) for name, blocks in kept.items()}
    state = model.state_dict()
    names = {name: _renumbered(name, kept) for name in state}
    try:
        plain = skeleton(known.class_name, {**config, **fewer}).state_dict()
    except InputError:  # a class that does not take so few layers
        return None
    shapes = {name: value.shape for name, value in plain.items()}
    if shapes != {names[name]: value.shape for name, value in state.items()}:
        return None
    return Shallower(fewer, names, kept)


def _kept_blocks(model: nn.Module, known: Family) -> dict[str, list[int]] | None:
    """List of blocks -> the numbers that stay; None unless whole blocks went and nothing else."""
    lists = {
        name: module
        for name, module in model.named_children()
        if name in known.depth_entries and isinstance(module, nn.ModuleList)
    }
    removed = set(removed_branches(model))
    blocks = {f"{name}.{place}" for name, module in lists.items() for place in range(len(module))}
    if not removed or not removed <= blocks:
        return None
    return {
        name: [place for place, block in enumerate(module) if not isinstance(block, Shortcut)]
        for name, module in lists.items()
    }


def _renumbered(name: str, kept: Mapping[str, list[int]]) -> str:
    """The name of a tensor after the blocks that stay were numbered anew."""
    top, _, rest = name.partition(".")
    place, _, leaf = rest.partition(".")
    return f"{top}.{kept[top].index(int(place))}.{leaf}" if top in kept else name
