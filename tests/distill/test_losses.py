"""Losses against their formulas written out, and against diffusers where it has them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from diffc.distill.draw import Batch
from diffc.distill.losses import Features, feature_loss, split_weights, step_loss, timestep_weights
from diffc.models.diffusion import process_from_scheduler
from diffc.recipe import DistillSection, LossesSection

T = torch.tensor([0, 10, 300, 700, 999])
MIN_SNR, NONE, PATH = (
    DistillSection(weighting=name, min_snr_gamma=5.0) for name in ("min_snr", "none", "path")
)


def scheduler_and_process(prediction: str):
    scheduler = DDPMScheduler(prediction_type=prediction)
    return scheduler, process_from_scheduler({**scheduler.config})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_the_published_weight(prediction: str) -> None:
    """Hang et al. 2023: min(SNR, 5) over SNR for eps, over SNR + 1 for v, times 1 for x_0."""
    scheduler, process = scheduler_and_process(prediction)
    snr = compute_snr(scheduler, T)
    divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(len(T))}[prediction]
    expected = snr.clamp_max(5.0) / divisor
    found = timestep_weights(process, MIN_SNR)[T]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6)


def test_min_snr_of_flow_matching() -> None:
    """u = eps - x_0 at fixed x_t: the error in x_0 is sigma times the error in u."""
    process = process_from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    t = torch.tensor([0, 99, 499, 899])
    sigma = (t + 1) / 1000
    snr = ((1 - sigma) / sigma) ** 2
    torch.testing.assert_close(timestep_weights(process, MIN_SNR)[t], snr.clamp_max(5) * sigma**2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_path_weights_are_the_effect_of_an_error(prediction: str) -> None:
    """Oracle: diffusers' DDIM, one timestep long, with the output off by one."""
    _, process = scheduler_and_process(prediction)
    scheduler = DDIMScheduler(
        prediction_type=prediction, clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(1000)
    x, ts = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.arange(50, 990, 40)
    moved = [
        scheduler.step(x + 1, t, x).prev_sample - scheduler.step(x, t, x).prev_sample for t in ts
    ]
    effect = torch.cat(moved).flatten().square().float()
    weights = timestep_weights(process, PATH)[ts]
    torch.testing.assert_close(weights / weights.mean(), effect / effect.mean(), rtol=3e-2, atol=0)


def test_path_weights_of_flow_matching_are_even() -> None:
    """An Euler step moves x by the velocity alone, as far at every t."""
    process = process_from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    weights = timestep_weights(process, PATH)[0:990:10]
    torch.testing.assert_close(weights / weights.mean(), torch.ones(99), rtol=3e-2, atol=0)


@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0])
def test_drawing_and_weighing_give_the_weights(focus: float) -> None:
    weights = torch.tensor([0.1, 1.0, 4.0, 2.0])
    density, weighed = split_weights(weights, focus)
    torch.testing.assert_close(density.float() * 4 * weighed, weights)
    assert density.sum() == pytest.approx(1)
    drawn = density / density[1]
    torch.testing.assert_close(drawn.float(), weights**focus)


def test_none_is_one() -> None:
    assert torch.equal(timestep_weights(scheduler_and_process("sample")[1], NONE), torch.ones(1000))


def batch() -> Batch:
    torch.manual_seed(0)
    return Batch(torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4), T, {})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_terms_are_weighted_mean_squares(prediction: str) -> None:
    scheduler, process = scheduler_and_process(prediction)
    b, output, dense = batch(), torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    target = {
        "epsilon": b.noise,
        "sample": b.clean,
        "v_prediction": scheduler.get_velocity(b.clean, b.noise, T),
    }[prediction]
    losses = LossesSection(output=0.7, noise=0.2, features=0.1)
    features, weights = torch.rand(5), torch.rand(5)
    found = step_loss(output, dense, b, process, losses, weights, features)
    expected = torch.tensor(0.0)
    for i in range(5):
        own = 0.7 * ((output - dense)[i] ** 2).mean() + 0.2 * ((output - target)[i] ** 2).mean()
        expected += (own * weights[i] + 0.1 * features[i]) / 5
    torch.testing.assert_close(found, expected)


def test_the_noise_loss_needs_no_teacher() -> None:
    _, process = scheduler_and_process("epsilon")
    b = batch()
    loss = step_loss(b.noise, None, b, process, LossesSection(output=0, noise=1), torch.ones(5))
    assert loss == 0


class Net(nn.Module):
    """A convolution block whose output is a tuple, then a token layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, width, 3, padding=1))
        self.tokens = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.block(x)
        return self.tokens(maps.flatten(2).transpose(1, 2))


def caught(net: Net, names, x) -> dict[str, torch.Tensor]:
    hooks = Features(net, names)
    net(x)
    hooks.remove()
    return hooks.take()


def test_features_are_compared_on_the_kept_channels() -> None:
    """A student that is the teacher with channels cut has no feature loss, on maps and tokens."""
    torch.manual_seed(0)
    teacher, student, x = Net(6), Net(3), torch.randn(2, 1, 5, 5)
    kept = {"block": torch.tensor([5, 0, 2]), "tokens": torch.tensor([1, 3, 4])}
    with torch.no_grad():
        student.block[0].weight.copy_(teacher.block[0].weight[kept["block"]])
        student.block[0].bias.copy_(teacher.block[0].bias[kept["block"]])
        theirs = caught(teacher, kept, x)
        ours = caught(student, kept, x)
        assert feature_loss({"block": ours["block"]}, theirs, kept).abs().max() < 1e-10
        ours["tokens"] = theirs["tokens"][..., kept["tokens"]]
        assert feature_loss(ours, theirs, kept).abs().max() < 1e-10
        ours["block"] = torch.zeros_like(ours["block"])
        mean = feature_loss(ours, theirs, kept).mean()
    torch.testing.assert_close(mean, torch.tensor(0.5))  # all of one block of two is lost


def test_no_samples_feature_loss_depends_on_its_micro_batch() -> None:
    """Else halving a micro-batch, or a second process, would change the objective."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 1.0, 5.0, 20.0]).reshape(4, 1, 1, 1)  # unlike magnitudes
    theirs = torch.randn(4, 6, 5, 5, generator=generator) * scale
    ours = theirs + 0.3 * torch.randn(4, 6, 5, 5, generator=generator)
    whole = feature_loss({"b": ours}, {"b": theirs}, {"b": None})
    pieces = [feature_loss({"b": o}, {"b": t}, {"b": None})
              for o, t in zip(ours.split(1), theirs.split(1), strict=True)]  # fmt: skip
    torch.testing.assert_close(torch.cat(pieces), whole)


def test_hooks_are_taken_out() -> None:
    net = Net(3)
    caught(net, {"block": None}, torch.randn(1, 1, 4, 4))
    assert not net.block._forward_hooks


def test_the_noise_loss_leaves_a_learned_variance_alone() -> None:
    """DiT and PixArt give the noise and then the variance, which has no target."""
    _, process = scheduler_and_process("epsilon")
    b = batch()
    output = torch.cat([b.noise + 1, torch.randn_like(b.noise)], dim=1)
    found = step_loss(output, None, b, process, LossesSection(output=0, noise=1), torch.ones(5))
    assert found.item() == pytest.approx(1.0)
