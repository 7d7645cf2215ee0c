"""Groups inside attention: whole heads, or dimensions of every head.

Cutting whole heads is exact. Cutting dimensions inside heads changes the temperature of the
softmax, because the processors divide by the square root of the *present* head size; the group
names the query's tensors, which surgery multiplies by sqrt(d_new / d_old) to undo that. Sana's
linear attention divides by its own sum and has no temperature.

Every module with ``to_q``, ``to_k``, ``to_v`` and ``heads`` counts as an attention here: diffusers'
own ``Attention``, and the classes of Flux and Wan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diffc.models.groups import Group, Role, Slice

_QUERIES = ("to_q", "add_q_proj")
_INNER = (*_QUERIES, "to_k", "to_v", "add_k_proj", "add_v_proj")
_READERS = ("to_out.0", "to_add_out")
_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of every attention that can be cut and has an output layer of its own.

    Left out: attention without keys of its own, with fewer key heads than query heads, and the
    AddedKV processors (Kandinsky, IF), which reshape their heads to the width of their input.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if _can_be_cut(module) and _has(module, _READERS[0])
    }


def _can_be_cut(module: nn.Module) -> bool:
    query, key = getattr(module, "to_q", None), getattr(module, "to_k", None)
    if not isinstance(query, nn.Linear) or not isinstance(key, nn.Linear):
        return False
    added = "AddedKV" in type(getattr(module, "processor", None)).__name__
    return not added and query.weight.shape[0] == key.weight.shape[0]


def inner_projections(model: nn.Module) -> list[str]:
    """Return the layers whose outputs are attention's inner width: to_q, to_k, to_v."""
    return [
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        for leaf in ("to_q", "to_k", "to_v")
        if isinstance(getattr(module, leaf, None), nn.Linear)
    ]


def attention_groups(model: nn.Module, *, head_dims: bool = False) -> list[Group]:
    """Return one group for each attention: its heads, or the dimensions of its heads.

    Args:
        model: A network with attentions.
        head_dims: True cuts dimensions instead of heads wherever possible. A single head cannot be
            removed, so its dimensions are cut in any case.
    """
    groups = []
    for name, attention in attentions(model).items():
        by_dimension = head_dims or attention.heads == 1
        if by_dimension and _dimensions_are_free(attention):
            groups.append(head_dim_group(name, attention))
        elif attention.heads != 1:
            groups.append(head_group(name, attention))
    return groups


def _dimensions_are_free(attention: nn.Module) -> bool:
    """True if no normalisation ties a head's dimensions together."""
    return all(getattr(attention, norm, None) is None for norm in _NORMS)


def head_group(name: str, attention: nn.Module, readers: Sequence[str] | None = None) -> Group:
    """Return the group of one attention's heads; a channel is a head.

    The cut is exact, unless queries and keys are normalised over all heads together: then the
    normalisation's statistics are those of the remaining heads.

    Args:
        name: The attention's name in the model.
        attention: The attention.
        readers: The weights whose first columns read the heads; None: the attention's own output
            layers.
    """
    heads = int(attention.heads)  # type: ignore[arg-type]
    width = _width(attention)
    index = np.arange(width, dtype=np.int64).reshape(heads, width // heads)
    return Group(
        name=f"{name}.heads",
        size=heads,
        elements=width // heads,
        kind="heads",
        slices=_slices(name, attention, index, readers),
        heads_of=name,
    )


def head_dim_group(name: str, attention: nn.Module) -> Group:
    """Return the group of the dimensions of an attention's heads; each head keeps equally many."""
    width = _width(attention)
    index = np.arange(width, dtype=np.int64)[:, None]
    queries = [f"{name}.{layer}" for layer in _QUERIES if _has(attention, layer)]
    scaled = [f"{q}.{leaf}" for q in queries for leaf in _leaves(attention, q[len(name) + 1 :])]
    return Group(
        name=f"{name}.head_dim",
        size=width,
        runs=int(attention.heads),  # type: ignore[arg-type]
        kind="head_dim",
        slices=_slices(name, attention, index),
        temperature=() if is_linear_attention(attention) else tuple(scaled),
    )


def is_linear_attention(attention: nn.Module) -> bool:
    """True for Sana's relu(q) relu(k)^T v, which is divided by its own sum."""
    return "SanaLinear" in type(getattr(attention, "processor", None)).__name__


def _slices(
    name: str,
    attention: nn.Module,
    index: NDArray[np.int64],
    readers: Sequence[str] | None = None,
) -> tuple[Slice, ...]:
    rows = [
        Slice(f"{name}.{layer}.{leaf}", 0, Role.OUT, index)
        for layer in _INNER
        if _has(attention, layer)
        for leaf in _leaves(attention, layer)
    ]
    norms = [
        Slice(f"{name}.{layer}.{leaf}", 0, Role.NORM, index)
        for layer in _NORMS
        if _has(attention, layer)
        for leaf in _leaves(attention, layer)
        if _spans_heads(attention, layer, leaf)
    ]
    if readers is None:
        readers = [f"{name}.{layer}.weight" for layer in _READERS if _has(attention, layer)]
    columns = [Slice(reader, 1, Role.IN, index) for reader in readers]
    return (*rows, *norms, *columns)


def _width(attention: nn.Module) -> int:
    return attention.get_parameter("to_q.weight").shape[0]


def _has(attention: nn.Module, layer: str) -> bool:
    """True if the attention has the layer: diffusers leaves it out, or sets it to None."""
    first, _, rest = layer.partition(".")
    module = getattr(attention, first, None)
    return module is not None and (not rest or isinstance(module, nn.ModuleList))


def _leaves(attention: nn.Module, layer: str) -> list[str]:
    module = attention.get_submodule(layer)
    return [leaf for leaf in ("weight", "bias") if getattr(module, leaf, None) is not None]


def _spans_heads(attention: nn.Module, layer: str, leaf: str) -> bool:
    """True if a normalisation of queries or keys goes over all heads together."""
    value = getattr(attention.get_submodule(layer), leaf)
    return bool(value.shape[0] == _width(attention))
