"""Low-rank additions: a network keeps its weights, and each layer learns a product B A beside them.

A linear layer or convolution with additions gives W x + b + (alpha / rank) B (A x). B is 0 at the
start, so that training begins with the network as it is; in the end the product is added to W, and
nothing of the additions is left. Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
Language Models", equation 3 and section 4.1; A is drawn as in their code (loralib), uniformly
within 1 / sqrt(its inputs). A convolution's A is a kernel like its own, with rank outputs, and B a
kernel of 1.

    add_low_rank        put additions beside the layers of a network
    learn               which parameters get gradients
    trained_parameters  these, in their order
    merge_low_rank      add the products to the weights, and take the additions out

Convolutions in groups, biases, norms and embeddings stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffc.data.randomness import keyed_generator
from diffc.models.loras.fusing import with_change
from diffc.models.loras.pairs import LoraPair
from diffc.recipe.sections.training import LowRankSection

Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_NAME = "low_rank"
"""What a layer calls its addition."""
_STREAM = 7
"""Keeps the draws of A apart from others of the same seed."""


class LowRankAddition(nn.Module):
    """What is added to the output of one layer: ``scale`` B (A x).

    Attributes:
        down: A (r, in, *kernel).
        up: B (out, r), of a convolution (out, r, 1, ...).
        scale: alpha / rank.
    """

    def __init__(self, layer: Layer, rank: int, scale: float) -> None:
        """Both matrices without values, on the layer's device.

        Args:
            layer: Whose output it is added to.
            rank: The number r.
            scale: See the attribute.
        """
        super().__init__()
        weight = layer.weight
        ones = (1,) * (weight.ndim - 2)
        shapes = ((rank, *weight.shape[1:]), (weight.shape[0], rank, *ones))
        self.down, self.up = (
            nn.Parameter(torch.empty(shape, dtype=torch.float32, device=weight.device))
            for shape in shapes
        )
        self.scale = scale

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw A, and make B 0.

        Args:
            generator: On the CPU.
        """
        self.up.zero_()
        if not self.down.is_meta:
            bound = 1 / math.sqrt(self.down[0].numel())
            drawn = torch.empty(self.down.shape).uniform_(-bound, bound, generator=generator)
            self.down.copy_(drawn)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """Return scale B (A x), of the shape of the layer's output.

        Args:
            layer: Whose stride and padding A has.
            x: What the layer is given.
        """
        if isinstance(layer, nn.Linear):
            return self.scale * functional.linear(functional.linear(x, self.down), self.up)
        narrow = layer._conv_forward(x, self.down, None)
        wide: Tensor = _CONVOLUTIONS[self.up.ndim](narrow, self.up)
        return self.scale * wide


def add_low_rank(model: nn.Module, options: LowRankSection, seed: int = 0) -> list[str]:
    """Put an addition beside every linear layer and convolution of ``model``, in place.

    Args:
        model: It may be on the meta device; the additions then are there too.
        options: With a rank of at least 1. A layer has no higher rank than its matrix can have.
        seed: What A is drawn from.

    Returns:
        Notes: what is trained.
    """
    whole = sum(value.numel() for value in model.parameters())
    clipped = 0
    for number, (_, layer) in enumerate(list(_layers(model))):
        most = min(layer.weight.shape[0], layer.weight[0].numel())
        clipped += options.rank > most
        addition = LowRankAddition(layer, min(options.rank, most), options.scale)
        addition.reset(keyed_generator(seed, _STREAM, number))
        layer.add_module(_NAME, addition)
        layer.register_forward_hook(_add)
    notes = [
        f"low-rank additions of rank {options.rank} are trained, {count_additions(model):,} "
        f"parameters; the model's own {whole:,} stay until these are merged"
    ]
    if clipped:
        notes.append(f"layers narrower than {options.rank}, with a rank of their own: {clipped}")
    return notes


def _layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    for name, module in model.named_modules():
        if isinstance(module, _LAYERS) and getattr(module, "groups", 1) == 1:
            yield name, module


def _add(layer: Layer, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The hook of a layer."""
    addition: LowRankAddition = getattr(layer, _NAME)
    change: Tensor = addition(layer, given[0])
    return output + change


def _additions(model: nn.Module) -> list[tuple[str, Layer, LowRankAddition]]:
    """Name, layer and addition of each layer that has one."""
    return [
        (name, layer, addition)
        for name, layer in _layers(model)
        if isinstance(addition := getattr(layer, _NAME, None), LowRankAddition)
    ]


def count_additions(model: nn.Module) -> int:
    """How many parameters the additions of ``model`` have."""
    return sum(value.numel() for *_, one in _additions(model) for value in one.parameters())


def learn(model: nn.Module) -> None:
    """Let gradients reach the additions of ``model`` alone; all parameters where it has none."""
    additions = [one for *_, one in _additions(model)]
    model.requires_grad_(not additions)
    for one in additions:
        one.requires_grad_(True)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of those that get gradients."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> None:
    """Add each product to its layer's weight, and take the additions out, in place.

    A model without additions stays as it is.
    """
    for name, layer, addition in _additions(model):
        pair = LoraPair(name, addition.down, addition.up, addition.scale)
        layer.weight.copy_(with_change(layer.weight, pair, 1.0))
        delattr(layer, _NAME)
        for key in [key for key, hook in layer._forward_hooks.items() if hook is _add]:
            del layer._forward_hooks[key]
