"""The middle block of every family: where it is, and the features that are taken there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.family_cases import CASES, case, random_model
from torch import nn

from diffc.data.randomness import keyed_noise
from diffc.measure.quality.own_features import GivenRows, middle_features, own_reference
from diffc.models.denoiser import Denoiser, denoiser_of
from diffc.models.families.middle import listed_middle, unet_middle
from diffc_export.events import drain

DENOISERS = [name for name, (kind, _, _) in CASES.items() if kind != "AutoencoderKL"]
DIFFUSION = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}


def opened(name: str) -> tuple[Denoiser, torch.Tensor, dict[str, torch.Tensor]]:
    """A tiny model, two of its samples and their conditions."""
    found = case(name)
    denoiser = denoiser_of(found.model, found.family, DIFFUSION, found.specs)
    rows = {k: v for k, v in found.inputs.items() if k not in ("sample", "timestep")}
    return denoiser, found.inputs["sample"], rows


def features(denoiser: Denoiser, samples, rows, null=None, batch: int = 32) -> np.ndarray:
    return drain(middle_features(denoiser, samples, GivenRows(rows, null or {}), batch))


@pytest.mark.parametrize("name", DENOISERS)
def test_every_family_has_features_of_its_middle(name: str) -> None:
    denoiser, samples, rows = opened(name)
    two = features(denoiser, samples, rows)
    assert two.shape[0] == 2 and two.shape[1] > 1
    assert np.isfinite(two).all()
    assert not np.allclose(two[0], two[1], rtol=1e-3), "two samples have the same features"
    one_by_one = features(denoiser, samples, rows, batch=1)
    np.testing.assert_allclose(two, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet2d", "sd15", "dit", "flux", "wan"])
def test_features_are_the_mean_of_what_the_block_gives_back_in_a_whole_call(name: str) -> None:
    """By a hook on a call that runs to its end, on samples that are noised by hand."""
    denoiser, samples, rows = opened(name)
    ratio = denoiser.process.noise / denoiser.process.signal
    t = int((ratio - 0.3).abs().argmin())
    noise = keyed_noise(((0, 11, i) for i in range(2)), samples.shape[1:])
    noisy = denoiser.process.signal[t] * samples + denoiser.process.noise[t] * noise
    outputs: list[object] = []
    block = denoiser.model.get_submodule(denoiser.family.middle_block(denoiser.model))
    handle = block.register_forward_hook(lambda *args: outputs.append(args[2]))
    with torch.no_grad():
        denoiser.call({"sample": noisy.float(), "timestep": torch.full((2,), float(t)), **rows})
    handle.remove()
    states = outputs[0][-1] if isinstance(outputs[0], tuple) else outputs[0]
    places = (2, 3) if denoiser.family.component == "unet" else (1,)
    expected = states.mean(places).double().numpy()
    np.testing.assert_allclose(features(denoiser, samples, rows), expected, rtol=1e-4, atol=1e-5)


def test_a_null_condition_takes_the_place_of_the_rows() -> None:
    denoiser, samples, _ = opened("dit")
    labels = {"class_labels": torch.tensor([3, 7])}
    null = {"class_labels": torch.tensor(10)}
    without = features(denoiser, samples, labels, null)
    by_hand = features(denoiser, samples, {"class_labels": torch.tensor([10, 10])})
    np.testing.assert_array_equal(without, by_hand)
    assert not np.allclose(without, features(denoiser, samples, labels))


def test_the_model_is_as_it_was_afterwards() -> None:
    denoiser, samples, rows = opened("unet2d")
    denoiser.model.train()
    features(denoiser, samples, rows)
    block = denoiser.model.get_submodule("mid_block")
    assert denoiser.model.training and not block._forward_hooks
    denoiser.model.eval()


def test_the_reference_says_what_it_is() -> None:
    denoiser, samples, rows = opened("unet2d")
    taken = drain(own_reference(denoiser, samples, GivenRows(rows, {}), of="tiny", digest="d"))
    assert taken.name == "the dense model (mid_block)"
    assert taken.facts()["reference"] == {
        "n": 2,
        "sha256": taken.statistics.digest,
        "of": "tiny",
    }


def test_the_middle_of_lists_and_of_a_unet_without_a_middle() -> None:
    def blocks(n: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Identity() for _ in range(n))

    model = nn.Module()
    model.first, model.second = blocks(2), blocks(5)
    assert listed_middle(model, ("first", "second")) == "second.1"
    assert listed_middle(model, ("first",)) == "first.0"
    unet = random_model(*CASES["unet2d"][:2])
    assert unet_middle(unet) == "mid_block"
    unet.mid_block = None
    assert unet_middle(unet) == "down_blocks.1"
    denoiser, samples, rows = opened("unet2d")
    assert features(denoiser.with_model(unet), samples, rows).shape == (2, 32)
