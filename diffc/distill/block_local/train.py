"""The training of one block: from what the dense block was given to what it gave."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from diffc.data.precision import autocast, channels_last
from diffc.data.randomness import keyed_generator
from diffc.distill.block_local.blocks import output_tensors
from diffc.distill.losses import per_sample
from diffc.distill.low_rank import add_low_rank, learn, merge_low_rank, trained_parameters
from diffc.recipe.sections.distill import BlockLocalSection
from diffc.recipe.sections.training import OWN_WEIGHTS, LowRankSection
from diffc.stage_outcomes import LocalBlockFigures


@dataclass(frozen=True)
class Example:
    """One call of a block.

    Attributes:
        arguments: What it is called with, by name.
        wanted: What it is to give: tensors of (rows, ...).
        is_held_out: Whether it judges, and teaches nothing.
    """

    arguments: dict[str, object] = field(repr=False)
    wanted: Sequence[Tensor] = field(repr=False)
    is_held_out: bool


@dataclass(frozen=True)
class TrainedBlock:
    """A block after its training.

    Attributes:
        figures: What became of it.
        weights: Its new parameters, by name; empty where it was better before.
    """

    figures: LocalBlockFigures
    weights: dict[str, Tensor] = field(repr=False)


def train_block(
    name: str,
    block: nn.Module,
    examples: Sequence[Example],
    options: BlockLocalSection,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    low_rank: LowRankSection = OWN_WEIGHTS,
) -> TrainedBlock:
    """Train a copy of ``block``; the block itself stays as it is.

    Each step works one example. The loss is the mean over rows and outputs of squared error over
    mean square. Weights that are no nearer to the dense block on the examples held out are dropped.

    Args:
        name: Of the block.
        block: Of the cut network.
        examples: Its calls, some of which are held out.
        options: How to train.
        device: Where to compute.
        dtype: What forward passes run in.
        seed: Of the order of examples.
        low_rank: The additions that are trained in the place of the weights, if its rank is one.
    """
    ours = copy.deepcopy(block).to(device)
    if low_rank.rank:
        add_low_rank(ours, low_rank, seed)
    learn(ours)
    channels_last(ours)
    taught = [one for one in examples if not one.is_held_out]
    judges = [one for one in examples if one.is_held_out]
    before = _error(ours, judges, device, dtype)
    trained = list(trained_parameters(ours).values())
    optimizer = torch.optim.AdamW(trained, options.learning_rate, weight_decay=0.0, fused=True)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate_at(step, options.steps)
        loss = _loss(ours, taught[_place(step, len(taught), seed)], device, dtype)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    merge_low_rank(ours)
    after = _error(ours, judges, device, dtype)
    is_better = after < before  # NaN is not
    weights = {key: value.detach().cpu().contiguous() for key, value in ours.named_parameters()}
    return TrainedBlock(
        LocalBlockFigures(
            name=name, before=_if_finite(before), after=_if_finite(after), is_used=is_better
        ),
        weights if is_better else {},
    )


def rate_at(step: int, steps: int) -> float:
    """The learning rate's share at a step: a linear warm-up over a tenth, then a cosine to 0."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _if_finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _place(step: int, count: int, seed: int) -> int:
    epoch, place = divmod(step, count)
    return int(torch.randperm(count, generator=keyed_generator(seed, epoch))[place])


@torch.no_grad()
def _error(
    block: nn.Module, examples: Sequence[Example], device: torch.device, dtype: torch.dtype
) -> float:
    losses = [float(_loss(block, one, device, dtype)) * len(one.wanted[0]) for one in examples]
    return sum(losses) / sum(len(one.wanted[0]) for one in examples)


def _loss(block: nn.Module, example: Example, device: torch.device, dtype: torch.dtype) -> Tensor:
    arguments, wanted = tree_map_only(
        Tensor, lambda value: value.to(device), (example.arguments, list(example.wanted))
    )
    with autocast(device, dtype):
        given = output_tensors(block(**arguments))
    terms = [
        per_sample(ours.float() - theirs) / per_sample(theirs).clamp_min(1e-8)
        for ours, theirs in zip(given, wanted, strict=True)
    ]
    return torch.stack(terms).mean()
