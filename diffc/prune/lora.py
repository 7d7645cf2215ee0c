"""A LoRA of the dense model, cut by a plan: what it is for the compressed model.

A pair changes a layer's weight by B A, so the rows of B are cut as the layer's output channels are,
and the columns of A as its input channels. Then cutting and adding commute, exactly:

    cut(W + B A) = cut(W) + cut(B) cut(A)

A pair of a layer that was left out with its branch goes. Where surgery multiplies a weight (the
temperature of shorter heads), B is multiplied too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from diffc.models.branches import Branch, Unit
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.models.groups import Group
from diffc.models.load import meta_denoiser
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile
from diffc.models.loras.fusing import with_change
from diffc.models.loras.pairs import LoraPair, read_pairs
from diffc.models.source import Source
from diffc.prune.plan import Plan
from diffc.prune.surgery import Keep, removed_positions

if TYPE_CHECKING:
    from diffc_export.specs import TensorSpec


@dataclass(frozen=True)
class CutPairs:
    """The pairs of one LoRA for the compressed model.

    Attributes:
        pairs: Those of layers that are there.
        left_out: The layers that went with their branches.
        narrowed: How many of ``pairs`` have fewer rows or columns than before.
    """

    pairs: tuple[LoraPair, ...]
    left_out: tuple[str, ...]
    narrowed: int


def cut_pairs(pairs: Sequence[LoraPair], units: Sequence[Unit], keep: Keep) -> CutPairs:
    """Cut the pairs of a dense model as ``surgery.cut`` cuts its weights.

    Args:
        pairs: The dense model's.
        units: Its groups of channels and its branches.
        keep: Unit's name -> the channels to keep; none of a branch leaves it out.
    """
    groups = [unit for unit in units if isinstance(unit, Group)]
    gone = [u for u in units if isinstance(u, Branch) and not len(keep.get(u.name, (0,)))]
    removed = removed_positions(groups, keep)
    factors = _temperatures(groups, keep)
    kept, left_out, narrowed = [], [], 0
    for pair in pairs:
        weight = f"{pair.layer}.weight"
        if any(branch.covers(pair.layer) for branch in gone):
            left_out.append(pair.layer)
            continue
        up = _without(pair.up, removed.get((weight, 0)), dim=0)
        down = _without(pair.down, removed.get((weight, 1)), dim=1)
        narrowed += up.shape != pair.up.shape or down.shape != pair.down.shape
        scale = pair.scale * factors.get(weight, 1.0)
        kept.append(replace(pair, up=up, down=down, scale=scale))
    return CutPairs(tuple(kept), tuple(left_out), narrowed)


def _temperatures(groups: Sequence[Group], keep: Keep) -> dict[str, float]:
    """Tensor -> by what surgery multiplies it."""
    factors: dict[str, float] = {}
    for group in groups:
        if group.name in keep:
            for name in group.temperature:
                factors[name] = factors.get(name, 1.0) * math.sqrt(
                    len(keep[group.name]) / group.size
                )
    return factors


def _without(value: Tensor, gone: np.ndarray | None, dim: int) -> Tensor:
    if gone is None:
        return value
    stays = np.setdiff1d(np.arange(value.shape[dim]), gone)
    return value.index_select(dim, torch.from_numpy(stays)).contiguous()


def fuse_cut(
    model: nn.Module, source: Source, specs: Sequence[TensorSpec], plan: Plan
) -> list[tuple[LoraFile, CutPairs]]:
    """Add the LoRAs that come after the compression to the compressed model, in place.

    Args:
        model: The compressed denoiser, float32.
        source: The dense model, with its ``adapted`` LoRAs.
        specs: The inputs of a call.
        plan: What was kept of the dense model.

    Returns:
        Each LoRA that changes the denoiser, with its pairs, cut.

    Raises:
        InputError: One does not fit.
    """
    dense = meta_denoiser(source)
    units, shapes = units_of(dense, source.class_name, specs), shapes_of(dense)
    done = []
    for lora in source.adapted:
        if DENOISER not in lora.components:
            continue
        loras = ComponentLoras((lora,), source.class_name, source.config)
        cut = cut_pairs(read_pairs(lora, source.component, shapes, loras), units, plan.keep())
        with torch.no_grad():
            for pair in cut.pairs:
                parameter = model.get_parameter(f"{pair.layer}.weight")
                parameter.copy_(with_change(parameter, pair, lora.weight))
        done.append((lora, cut))
    return done


def units_of(dense: nn.Module, class_name: str, specs: Sequence[TensorSpec]) -> list[Unit]:
    """The groups of channels and the branches of a dense network on the meta device."""
    known = family(class_name)
    with torch.device("meta"):
        groups = known.groups(dense, meta_inputs(specs))
    return [*groups, *known.branches(dense)]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def diffusers_names(component: str, pairs: Sequence[LoraPair], lora: LoraFile) -> dict[str, Tensor]:
    """The pairs under diffusers' names, with every factor in B."""
    state: dict[str, Tensor] = {}
    for pair in pairs:
        factor = pair.scale * lora.weight
        up = pair.up if factor == 1 else pair.up.float() * factor
        state[f"{component}.{pair.layer}.lora_A.weight"] = pair.down.contiguous().clone()
        state[f"{component}.{pair.layer}.lora_B.weight"] = up.contiguous().clone()
    return state
