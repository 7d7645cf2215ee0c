"""The tiny model as importance takes it: denoiser, groups and clean samples."""

from __future__ import annotations

import pytest
import torch

from diffc.data.clean import CleanSet
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.importance.base import Subject


@pytest.fixture
def subject(tiny_model):
    torch.set_num_threads(1)
    source = find_source(tiny_model)
    model, found = load_denoiser(source), family("UNet2DModel")
    inputs = {"sample": torch.zeros(1, 1, 16, 16), "timestep": torch.zeros(1, dtype=torch.long)}
    clean = CleanSet(
        torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, {}, ""
    )
    groups = found.groups(model, inputs)
    return Subject(denoiser_of(model, found, source.scheduler), clean, groups)
