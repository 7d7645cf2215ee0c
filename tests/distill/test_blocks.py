"""The feature loss: which channels it compares, and that it changes what is learnt."""

from __future__ import annotations

import copy

import pytest
import torch
from support import tiny_training
from support.family_cases import CASES, case
from support.family_oracle import random_keep, silenced

from diffc.distill.blocks import kept_channels
from diffc.distill.losses import Features, channel_dim, feature_loss
from diffc.errors import RequestError
from diffc.models.families.unet2d import FAMILY
from diffc.prune.surgery import cut
from diffc_export.events import drain


def caught(family, model, kept, given) -> dict[str, torch.Tensor]:
    hooks = Features(model, kept)
    with torch.no_grad():
        family.call(model, given)
    hooks.remove()
    return hooks.take()


DENOISERS = [name for name, (kind, _, _) in CASES.items() if kind != "AutoencoderKL"]


@pytest.mark.parametrize("name", DENOISERS)
def test_kept_channels_are_the_cut_models_channels_in_order(name: str) -> None:
    """Oracle: the dense model with the other channels silenced has the cut model's features."""
    whole = case(name)
    keep = random_keep(whole.groups, seed=3)
    kept = kept_channels(whole.model, whole.family, whole.groups, keep)
    assert kept
    student = copy.deepcopy(whole.model)
    cut(student, whole.groups, keep)
    quiet = silenced(whole.model, whole.groups, keep)
    theirs = caught(whole.family, quiet, kept, whole.inputs)
    ours = caught(whole.family, student, kept, whole.inputs)
    assert set(ours) == set(theirs) == set(kept)
    assert feature_loss(ours, theirs, kept).max() < 1e-8
    for block, index in kept.items():
        assert ours[block].shape[channel_dim(ours[block])] == (
            theirs[block].shape[channel_dim(theirs[block])] if index is None else len(index)
        )


def test_a_unets_blocks_are_its_residual_blocks() -> None:
    whole = case("unet2d")
    keep = random_keep(whole.groups, seed=0)
    kept = kept_channels(whole.model, whole.family, whole.groups, keep)
    assert all(index is not None for index in kept.values())
    assert {name.split(".")[0] for name in kept} == {"down_blocks", "mid_block", "up_blocks"}
    assert set(kept_channels(whole.model, whole.family, whole.groups, {}).values()) == {None}


def inputs(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"sample": torch.randn(n, 1, 8, 8, generator=generator), "timestep": torch.full((n,), 9)}


def trained(folder, **changes):
    """A cut of the teacher, distilled, and how far its features are from the teacher's."""
    teacher = tiny_training.unet(8, seed=0).eval()
    groups = FAMILY.groups(teacher, inputs(1))
    keep = random_keep(groups, seed=1)
    kept = kept_channels(teacher, FAMILY, groups, keep)
    student = copy.deepcopy(teacher)
    cut(student, groups, keep)
    drain(tiny_training.work(folder, student, kept=kept, **changes))
    theirs, ours = (caught(FAMILY, model, kept, inputs(16)) for model in (teacher, student))
    return student, float(feature_loss(ours, theirs, kept).mean())


@pytest.mark.slow
def test_the_feature_loss_brings_features_closer(tmp_path) -> None:
    base = {"steps": 60, "batch": 8, "learning_rate": 3e-3, "checkpoint_every": 60}
    _, without = trained(tmp_path / "a", **base)
    _, with_features = trained(tmp_path / "b", **base, losses={"output": 1.0, "features": 1.0})
    assert with_features < 0.8 * without


@pytest.mark.slow
def test_gradient_checkpointing_keeps_the_feature_losses_gradient(tmp_path) -> None:
    changes = {"losses": {"output": 1.0, "features": 0.5}}
    plain, _ = trained(tmp_path / "a", **changes)
    saved, _ = trained(tmp_path / "b", **changes, gradient_checkpointing=True)
    for a, b in zip(plain.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_feature_loss_needs_to_know_the_channels(tmp_path) -> None:
    with pytest.raises(RequestError, match="which channels were kept"):
        drain(tiny_training.work(tmp_path, losses={"features": 1.0}))
