"""A LoRA file for OUT/model: the dense model's, cut by the plan of OUT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from diffc.data.inputs import data_text_tokens
from diffc.errors import InputError
from diffc.models.branches import Unit
from diffc.models.cut import skeleton
from diffc.models.families import family
from diffc.models.inputs import input_specs
from diffc.models.loras.files import DENOISER, ComponentLoras, LoraFile
from diffc.models.loras.pairs import read_pairs
from diffc.models.source import Source, find_source
from diffc.output import locked_recipe, read_lock
from diffc.prune.lora import CutPairs, cut_pairs, diffusers_names, shapes_of, units_of
from diffc.prune.plan import Plan
from diffc_runtime.files import write_bytes

if TYPE_CHECKING:
    from diffc_export.specs import TensorSpec


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
    if DENOISER not in lora.components:
        raise InputError(
            f"{lora.path} changes only {' and '.join(sorted(lora.components))}, "
            "and text encoders are not cut",
            hint=f"load it as it is: diffc.load('{out / 'model'}').load_lora_weights(...)",
        )
    loras = ComponentLoras((lora,), source.class_name, source.config)
    cut = cut_for(lora, out)
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
    dense, _ = _dense_of(source, out)
    loads = hasattr(type(dense), "load_lora_adapter")
    return AdaptedLora(goal, len(cut.pairs), cut.narrowed, cut.left_out, texts, loads)


def cut_for(lora: LoraFile, out: Path) -> CutPairs:
    """Cut a LoRA of the dense model for OUT/model.

    Raises:
        InputError: The LoRA does not fit the dense model, or OUT is of one that had been compressed
            before.
    """
    source = find_source(out / "model")
    plan = Plan.read(out / "plan.json")
    loras = ComponentLoras((lora,), source.class_name, source.config)
    dense, specs = _dense_of(source, out)
    units = units_of(dense, source.class_name, specs)
    _check_plan(units, plan, out)
    pairs = read_pairs(lora, source.component, shapes_of(dense), loras)
    return cut_pairs(pairs, units, plan.keep())


def _dense_of(source: Source, out: Path) -> tuple[nn.Module, list[TensorSpec]]:
    """The dense network of a compressed model on the meta device, and the inputs of a call."""
    recipe = locked_recipe(out)
    specs = input_specs(source, recipe.export.size, data_text_tokens(recipe))
    return skeleton(source.class_name, source.config), specs


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


def _save(state: Mapping[str, Tensor], goal: Path, lora: LoraFile) -> None:
    """Write the file whole, or not at all."""
    from safetensors.torch import save

    goal.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(goal, save(dict(state), {"format": "pt", "adapted_from": lora.digest}))
