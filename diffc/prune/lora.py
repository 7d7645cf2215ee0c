"""A LoRA of the dense model, cut by a plan: what it is for the compressed model.

A pair changes a layer's weight by B A, so the rows of B are cut as the layer's output channels are,
and the columns of A as its input channels. Then cutting and adding commute, exactly:

    cut(W + B A) = cut(W) + cut(B) cut(A)

A pair of a layer that was left out with its branch goes. Where surgery multiplies a weight (the
temperature of shorter heads), B is multiplied too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.branches import Branch, Unit
from diffc.models.cut import skeleton
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.models.groups import Group
from diffc.models.inputs import input_specs
from diffc.models.load import meta_denoiser
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile
from diffc.models.loras.fusing import with_change
from diffc.models.loras.pairs import LoraPair, read_pairs
from diffc.models.source import Source, find_source
from diffc.output import locked_recipe, read_lock
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


@dataclass(frozen=True)
class AdaptedLora:
    """What ``diffc adapt`` wrote.

    Attributes:
        path: The file.
        kept: How many layers of the denoiser it changes.
        narrowed: How many of them have fewer rows or columns than in the dense model.
        left_out: The layers that the compressed model does not have.
        texts: How many layers of text encoders it changes, which are not cut.
        loader: Whether diffusers loads LoRAs into this class.
    """

    path: Path
    kept: int
    narrowed: int
    left_out: tuple[str, ...]
    texts: int
    loader: bool


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
    units, shapes = _units(dense, source.class_name, specs), _shapes(dense)
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


def adapt_lora(lora: LoraFile, out: Path, goal: Path) -> AdaptedLora:
    """Cut a LoRA of the dense model for OUT/model, and write it under diffusers' names.

    alpha / r and the weight are multiplied into B, so that the file means the same to every reader.

    Args:
        lora: The LoRA of the dense model.
        out: The output folder, whose OUT/model and plan.json count.
        goal: The file to write.

    Raises:
        InputError: The LoRA does not fit the dense model, or has nothing of the denoiser.
    """
    source = find_source(out / "model")
    plan = Plan.read(out / "plan.json")
    if DENOISER not in lora.components:
        raise InputError(
            f"{lora.path} changes only {' and '.join(sorted(lora.components))}, "
            "and text encoders are not cut",
            hint=f"load it as it is: diffc.load('{out / 'model'}').load_lora_weights(...)",
        )
    loras = ComponentLoras((lora,), source.class_name, source.config)
    dense, specs = _dense_of(source, out)
    units = _units(dense, source.class_name, specs)
    _check_plan(units, plan, out)
    cut = cut_pairs(read_pairs(lora, source.component, _shapes(dense), loras), units, plan.keep())
    state = diffusers_names(
        source.component or family(source.class_name).component, cut.pairs, lora
    )
    texts = 0
    for name in sorted(lora.components - {DENOISER}):
        part = source.find_component(name)
        if part is None:
            raise InputError(
                f"{lora.path} changes {name}, which {out / 'model'} does not have",
                hint="save a file without these keys where they are not wanted",
            )
        shapes = {key: entry.shape for key, entry in part.tensors().items()}
        pairs = read_pairs(lora, name, shapes, loras)
        state |= diffusers_names(name, pairs, lora)
        texts += len(pairs)
    _save(state, goal, lora)
    loads = hasattr(type(dense), "load_lora_adapter")
    return AdaptedLora(goal, len(cut.pairs), cut.narrowed, cut.left_out, texts, loads)


def _dense_of(source: Source, out: Path) -> tuple[nn.Module, list[TensorSpec]]:
    """The dense network of a compressed model on the meta device, and the inputs of a call."""
    from diffc.data.inputs import data_text_tokens

    recipe = locked_recipe(out)
    specs = input_specs(source, recipe.export.size, data_text_tokens(recipe))
    return skeleton(source.class_name, source.config), specs


def _units(dense: nn.Module, class_name: str, specs: Sequence[TensorSpec]) -> list[Unit]:
    known = family(class_name)
    with torch.device("meta"):
        groups = known.groups(dense, meta_inputs(specs))
    return [*groups, *known.branches(dense)]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _check_plan(units: Sequence[Unit], plan: Plan, out: Path) -> None:
    """Raise InputError where the plan is of a model that had been cut before."""
    sizes = {unit.name: unit.size for unit in units}
    if any(sizes.get(unit.name) != unit.size for unit in plan.units):
        raise InputError(
            f"{out} was made from a model that had been compressed before "
            f"({read_lock(out)['model']['folder']})",
            hint="a LoRA is cut by one plan at a time, from the dense model: adapt it to that run, "
            "and give the result to diffc compile as --lora",
        )


def diffusers_names(component: str, pairs: Sequence[LoraPair], lora: LoraFile) -> dict[str, Tensor]:
    """The pairs under diffusers' names, with every factor in B."""
    state: dict[str, Tensor] = {}
    for pair in pairs:
        factor = pair.scale * lora.weight
        up = pair.up if factor == 1 else pair.up.float() * factor
        state[f"{component}.{pair.layer}.lora_A.weight"] = pair.down.contiguous().clone()
        state[f"{component}.{pair.layer}.lora_B.weight"] = up.contiguous().clone()
    return state


def _save(state: Mapping[str, Tensor], goal: Path, lora: LoraFile) -> None:
    """Write the file whole, or not at all."""
    from safetensors.torch import save

    from diffc_runtime.files import write_bytes

    goal.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(goal, save(dict(state), {"format": "pt", "adapted_from": lora.digest}))
