"""Groups inside diffusers' Attention: whole heads, or dimensions of every head.

Cutting whole heads is exact. Cutting dimensions inside heads changes the temperature of the
softmax, because the processors divide by the square root of the *present* head size; the group
names the query's tensors, which surgery multiplies by sqrt(d_new / d_old) to undo that.
"""

from __future__ import annotations

import numpy as np
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import nn

from diffc.models.groups import Group, Role, Slice


def attentions(model: nn.Module) -> dict[str, Attention]:
    """Every Attention of ``model`` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Attention)}


def inner_projections(model: nn.Module) -> list[str]:
    """The layers whose outputs are attention's inner width: to_q, to_k, to_v."""
    return [f"{name}.{leaf}" for name in attentions(model) for leaf in ("to_q", "to_k", "to_v")]


def attention_groups(model: nn.Module) -> list[Group]:
    """One group for each Attention: heads where there are several, else the head's dimensions."""
    return [
        head_group(name, attention) if attention.heads > 1 else head_dim_group(name, attention)
        for name, attention in attentions(model).items()
    ]


def head_group(name: str, attention: Attention) -> Group:
    """The heads of one Attention: a channel is a head, exact to cut."""
    heads = attention.heads
    size = attention.to_q.weight.shape[0] // heads
    index = np.arange(heads * size, dtype=np.int64).reshape(heads, size)
    return Group(
        name=f"{name}.heads",
        size=heads,
        unit=size,
        kind="heads",
        slices=_slices(name, attention, index),
        heads_of=name,
    )


def head_dim_group(name: str, attention: Attention) -> Group:
    """The dimensions of an Attention's heads; equally many are kept in each head."""
    width = attention.to_q.weight.shape[0]
    index = np.arange(width, dtype=np.int64)[:, None]
    scaled = [f"{name}.to_q.{leaf}" for leaf in _leaves(attention.to_q)]
    return Group(
        name=f"{name}.head_dim",
        size=width,
        blocks=attention.heads,
        kind="head_dim",
        slices=_slices(name, attention, index),
        temperature=tuple(scaled),
    )


def _slices(name: str, attention: Attention, index: NDArray[np.int64]) -> tuple[Slice, ...]:
    rows = [
        Slice(f"{name}.{layer}.{leaf}", 0, Role.OUT, index)
        for layer in ("to_q", "to_k", "to_v")
        for leaf in _leaves(getattr(attention, layer))
    ]
    return (*rows, Slice(f"{name}.to_out.0.weight", 1, Role.IN, index))


def _leaves(layer: nn.Module) -> list[str]:
    return [leaf for leaf in ("weight", "bias") if getattr(layer, leaf, None) is not None]
