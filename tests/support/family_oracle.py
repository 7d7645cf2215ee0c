"""The oracle of every cut: the dense model with the channels silenced.

Only the weights that *produce* a channel are set to zero (a group's ``Role.OUT`` slices). Nothing
is told about who reads the channel or which normalisation it passes: those find silenced channels
by themselves, as the ones that are zero everywhere, and leave them out of their statistics. So a
forgotten reader, a norm's wrong channels or a wrong order all show as a difference.

What is cut is a smaller network; kept channels split evenly, in order, into GroupNorm's groups.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from diffc.models.groups import Group, Role

Keep = dict[str, np.ndarray]


def silenced(model: nn.Module, groups: Sequence[Group], keep: Mapping[str, np.ndarray]):
    """A copy of ``model`` in which every channel not in ``keep`` is zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for group in groups:
            gone = sorted(set(range(group.size)) - set(keep[group.name].tolist()))
            for piece in group.by_role(Role.OUT):
                weights = model.get_parameter(piece.tensor)
                for channel in gone:
                    for position in piece.index[channel]:
                        weights.select(piece.dim, int(position)).zero_()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = _group_norm(module)
        elif isinstance(module, nn.LayerNorm):
            module.forward = _layer_norm(module)
        elif isinstance(module, nn.RMSNorm | RMSNorm):
            module.forward = _rms_norm(module)
    return model


def _alive(x: Tensor, dim: int) -> Tensor:
    """Indices of the channels along ``dim`` that are not zero everywhere."""
    others = [d for d in range(x.ndim) if d != dim % x.ndim]
    return (x != 0).sum(others).nonzero().flatten()


def _group_norm(norm: nn.GroupNorm):
    def forward(x: Tensor) -> Tensor:
        alive = _alive(x, 1)
        runs = x[:, alive].unflatten(1, (norm.num_groups, -1))
        dims = tuple(range(2, runs.ndim))
        mean, var = runs.mean(dims, keepdim=True), runs.var(dims, keepdim=True, unbiased=False)
        shape = (-1,) + (1,) * (x.ndim - 2)
        normal = ((runs - mean) / torch.sqrt(var + norm.eps)).flatten(1, 2)
        out = torch.zeros_like(x)
        out[:, alive] = normal * norm.weight[alive].view(shape) + norm.bias[alive].view(shape)
        return out

    return forward


def _layer_norm(norm: nn.LayerNorm):
    def forward(x: Tensor) -> Tensor:
        alive = _alive(x, -1)
        kept = x[..., alive]
        mean, var = kept.mean(-1, keepdim=True), kept.var(-1, keepdim=True, unbiased=False)
        out = torch.zeros_like(x)
        normal = (kept - mean) / torch.sqrt(var + norm.eps)
        if norm.elementwise_affine:
            normal = normal * norm.weight[alive] + (0 if norm.bias is None else norm.bias[alive])
        out[..., alive] = normal
        return out

    return forward


def _rms_norm(norm: nn.Module):
    def forward(x: Tensor) -> Tensor:
        alive = _alive(x, -1)
        kept = x[..., alive]
        eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
        out = torch.zeros_like(x)
        normal = kept * torch.rsqrt(kept.pow(2).mean(-1, keepdim=True) + eps)
        out[..., alive] = normal * norm.weight[alive] if norm.weight is not None else normal
        return out

    return forward


def random_keep(groups: Sequence[Group], seed: int) -> Keep:
    """A random width for each group, and random channels, equally many in each of its runs."""
    rng = np.random.default_rng(seed)
    keep = {}
    for group in groups:
        run = group.size // group.runs
        each = rng.integers(1, run + 1)
        keep[group.name] = _choose(group, each, rng)
    return keep


def least_keep(groups: Sequence[Group], seed: int = 0) -> Keep:
    """One channel in each run of each group."""
    rng = np.random.default_rng(seed)
    return {group.name: _choose(group, 1, rng) for group in groups}


def _choose(group: Group, each: int, rng: np.random.Generator) -> np.ndarray:
    run = group.size // group.runs
    chosen = [
        block * run + np.sort(rng.choice(run, each, replace=False)) for block in range(group.runs)
    ]
    return np.concatenate(chosen).astype(np.int64)


def widths(groups: Sequence[Group], keep: Mapping[str, np.ndarray]) -> np.ndarray:
    """(G,) the number of channels kept in each group."""
    return np.array([len(keep[group.name]) for group in groups], dtype=np.int64)
