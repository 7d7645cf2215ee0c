"""The losses of distillation.

    timestep_weights   on a squared error in the model's own parametrisation: path, min-SNR or 1
    split_weights      part of them by drawing t more often, part by weighing
    step_loss          the weighted sum of the terms for one micro-batch
    Features           block outputs caught by hooks, compared on the channels that were kept

Source of min-SNR: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy":
weight min(SNR, gamma) on the error in x_0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffc.distill.draw import Batch
from diffc.models.diffusion import Process
from diffc.recipe import DistillSection, LossesSection

Kept = Mapping[str, Tensor | None]
"""Module name of a block -> int64 indices of the dense block's output channels that were kept, or
None where the block keeps them all."""

Call = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def timestep_weights(process: Process, options: DistillSection) -> Tensor:
    """(T,) float32 weights of a squared error in the model's own parametrisation."""
    t = torch.arange(len(process))
    if options.weighting == "none" or len(process) == 1:  # one timestep has no path
        return torch.ones(len(process))
    if options.weighting == "path":
        return path_weights(process)
    snr = process.snr(t)
    # epsilon_scale / SNR turns an own error into one of x_0; SNR is 0 only where nothing is left.
    return snr.clamp_max(options.min_snr_gamma) * process.epsilon_scale(t) / snr.clamp_min(1e-8)


def split_weights(weights: Tensor, focus: float) -> tuple[Tensor, Tensor]:
    """(T,) density to draw t from, and (T,) weights on what is drawn; their product is ``weights``.

    focus 0: t is drawn evenly and weighed; 1: t is drawn in proportion and not weighed. In between
    fewer samples are spent where they count for little.
    """
    density = weights.double().clamp_min(1e-6 * float(weights.max())) ** focus
    density = density / density.sum()
    return density, (weights / (density * len(weights))).float()


def path_weights(process: Process) -> Tensor:
    """(T,) float32, of mean 1: how far an error at t moves the sample, squared.

    A deterministic sampler follows dx/dt = (a'/a) x + (b' - b a'/a) eps, with x = a x_0 + b eps
    (Song et al. 2021, the probability flow). An error in eps enters x with that last factor; where
    x keeps its variance, as on a variance-preserving path, it then stays about as large.
    """
    between = replace(
        process,
        signal=(process.signal[1:] + process.signal[:-1]) / 2,
        noise=(process.noise[1:] + process.noise[:-1]) / 2,
    )
    ratio = between.noise / between.signal.clamp_min(1e-8)
    rate = process.noise.diff() - ratio * process.signal.diff()
    own = rate.square().float() * between.epsilon_scale(torch.arange(len(between)))
    own = torch.cat([own[:1], own])
    return own / own.mean()


class Features:
    """Catches the outputs of the blocks named in ``kept`` while a model runs."""

    def __init__(self, model: nn.Module, names: Kept) -> None:
        self.caught: dict[str, Tensor] = {}
        self.hooks = [model.get_submodule(n).register_forward_hook(self._hook(n)) for n in names]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # of a block with two streams the image's comes last
            self.caught[name] = output[-1] if isinstance(output, tuple) else output

        return catch

    def take(self) -> dict[str, Tensor]:
        """What was caught since the last call."""
        caught, self.caught = self.caught, {}
        return caught

    def remove(self) -> None:
        """Take the hooks out of the model."""
        for hook in self.hooks:
            hook.remove()


def channel_dim(features: Tensor) -> int:
    """Channels are dimension 1 of (B, C, H, W[, D]) maps and the last of (B, L, C) tokens."""
    return 1 if features.ndim >= 4 else features.ndim - 1


def feature_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], kept: Kept
) -> Tensor:
    """(B,): over the blocks, the mean of squared error over mean square, on kept channels.

    The mean square is each sample's own, so that no loss depends on what shares its micro-batch.
    """
    terms = []
    for name, ours in student.items():
        theirs, index = teacher[name].float(), kept[name]
        if index is not None:
            theirs = theirs.index_select(channel_dim(theirs), index.to(theirs.device))
        error = per_sample(ours.float() - theirs)
        terms.append(error / per_sample(theirs).clamp_min(1e-8))
    return torch.stack(terms).mean(0)


def per_sample(error: Tensor) -> Tensor:
    """(B, ...) -> (B,): the mean square in float32."""
    return error.float().square().flatten(1).mean(1)


def step_loss(
    output: Tensor,
    dense_output: Tensor | None,
    batch: Batch,
    process: Process,
    losses: LossesSection,
    weights: Tensor,
    features: Tensor | None = None,
) -> Tensor:
    """Return the mean over a micro-batch of the weighted terms; a scalar.

    Args:
        output: (B, ...) the student's.
        dense_output: (B, ...) the dense model's; None where its term has weight 0.
        batch: What both were called with.
        process: The noising process, which says what a perfect model gives.
        losses: The weight of each term.
        weights: (B,) the weights of the rows in the first two terms.
        features: (B,) of ``feature_loss``; None where that term is off.
    """
    total = torch.zeros(len(batch), device=output.device)
    if losses.output:
        assert dense_output is not None
        total = total + losses.output * per_sample(output - dense_output)
    if losses.noise:
        target = process.target(batch.clean, batch.noise, batch.t)
        predicted = output[:, : target.shape[1]]  # a learned variance comes after it
        total = total + losses.noise * per_sample(predicted - target)
    total = total * weights
    if losses.features and features is not None:
        total = total + losses.features * features
    return total.mean()
