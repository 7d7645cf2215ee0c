"""A tiny dense model of each family beside a cut copy of it, with clean samples."""

from __future__ import annotations

import copy

import torch
from torch import nn

from diffc.data.clean import CleanSet
from diffc.models.denoiser import Denoiser, denoiser_of
from diffc.prune.surgery import Keep, cut
from support.family_cases import case
from support.family_oracle import random_keep

FAMILIES = ("unet2d", "sd15", "dit", "pixart", "sd3", "flux", "sana", "wan")
_FLOW = ("sd3", "flux", "sana", "wan")


def dense_denoiser(name: str) -> tuple[Denoiser, CleanSet]:
    """The tiny denoiser of a family, and eight clean samples."""
    tiny = case(name)
    kind = "FlowMatchEulerDiscreteScheduler" if name in _FLOW else "DDPMScheduler"
    scheduler = {"_class_name": kind, "num_train_timesteps": 1000}
    dense = denoiser_of(copy.deepcopy(tiny.model), tiny.family, scheduler, tiny.specs)
    generator = torch.Generator().manual_seed(3)
    given = dense.examples(8, generator)
    conditions = {key: value for key, value in given.items() if key not in ("sample", "timestep")}
    clean = CleanSet(torch.randn(8, *dense.sample_shape, generator=generator), conditions, "")
    return dense, clean


def cut_copy(dense: Denoiser, name: str, seed: int = 1) -> tuple[nn.Module, Keep]:
    """A copy of the denoiser's network with random channels of every group, and which."""
    groups = case(name).groups
    keep = random_keep(groups, seed)
    small = copy.deepcopy(dense.model)
    cut(small, groups, keep)
    return small, {group.name: keep[group.name] for group in groups}
