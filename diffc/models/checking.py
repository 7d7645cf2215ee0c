"""Checks from a config and file headers whether a component can be opened; reads no weights.

The name and shape of every tensor are compared with the component's class on the meta device. The
same comparison is made again when the weights are read (diffc/models/load.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffc.models import reasons
from diffc.models.classes import component_class, is_diffusers_model, is_transformers_model
from diffc.models.components import Component
from diffc.models.cut import cut_skeleton, leave_out, pruning_of, skeleton
from diffc.models.files import TensorEntry
from diffc.models.foreign import foreign_errors, quiet_libraries
from diffc.models.key_names import (
    ExpectedTensors,
    check_tensors,
    extra_note,
    names_error,
    shape_error,
    strange_tensors,
)
from diffc.models.source import Source
from diffc.models.states import DTYPES, read_entries
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def check_components(source: Source, *, prompts: bool) -> list[str]:
    """Check every component that a run uses.

    Args:
        source: The model, with its weights.
        prompts: True if the run uses the text encoders.

    Returns:
        Notes for the user.

    Raises:
        InputError: A component would not open. The message says what is wrong and what would help.
    """
    notes = check_denoiser(source)
    vae = source.vae
    if vae is not None and vae.name != source.component:
        notes += check_component(vae)
    for part in source.components:
        if prompts and part.is_text_encoder:
            notes += check_component(part)
        elif prompts and part.is_tokenizer:
            part.need_folder()
    return notes + _class_notes(source, prompts)


def check_denoiser(source: Source, dense: nn.Module | None = None) -> list[str]:
    """Check the tensors of a denoiser, dense or compressed.

    A model without weights, of which there are only configs, passes.

    Args:
        source: The model.
        dense: The skeleton of the source's class and config, if the caller has built it. The
            branches that a compressed model was cut by are left out of it.

    Returns:
        Notes for the user.

    Raises:
        InputError: A tensor is missing, unknown or has another shape.
    """
    if not source.weights:
        return []
    if not source.is_cut:
        return check_component(source.denoiser, dense)
    entries = read_entries(source.denoiser.need_weights())
    if dense is None:
        dense = skeleton(source.class_name, source.config)
    pruning = pruning_of(source)
    leave_out(dense, source.class_name, pruning)
    expected = expected_tensors(dense, cut=True)
    notes = check_tensors(source.denoiser_folder, entries, expected)
    shapes = {name: entry.shape for name, entry in entries.items()}
    cut_skeleton(source.class_name, source.config, shapes, pruning)
    return notes


def check_component(part: Component, model: nn.Module | None = None) -> list[str]:
    """Check one component: its class, its config and the tensors of its files.

    Args:
        part: The component.
        model: The skeleton of a diffusers network, if the caller has built it.

    Returns:
        Notes for the user.

    Raises:
        InputError: The component would not open.
    """
    part.need_folder()
    reasons.check_not_quantised(part.folder, part.config)
    weights = part.need_weights()
    kind, entries = component_class(part), read_entries(weights)
    if is_diffusers_model(kind):
        if model is None:
            model = skeleton(part.class_name, part.config, kind=kind)
        notes = check_diffusers_tensors(part, model, entries)
    elif is_transformers_model(kind):
        notes = _check_transformers(part, kind, entries)
    else:
        notes = []
    if weights.variant:
        notes.append(f"{part.folder}: its weights are the variant '{weights.variant}'")
    return notes


def expected_tensors(model: nn.Module, *, cut: bool = False) -> ExpectedTensors:
    """Return the tensors that a diffusers network takes from its files.

    Args:
        model: The network; the meta device will do.
        cut: True for a compressed model, whose tensors may be smaller.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    buffers = {name for name, _ in model.named_buffers()}
    ignored = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    integers = {n for n, value in model.state_dict().items() if not value.is_floating_point()}
    return ExpectedTensors(shapes, buffers, ignored, integers, cut)


def check_diffusers_tensors(
    part: Component, model: nn.Module, entries: Mapping[str, TensorEntry]
) -> list[str]:
    """Compare the tensors of a component's files with a diffusers network.

    Args:
        part: The component, for messages.
        model: The network; the meta device will do.
        entries: Name -> the tensor's entry in the files' headers.

    Returns:
        Notes for the user.

    Raises:
        InputError: A tensor is missing, unknown or has another shape.
    """
    return check_tensors(part.folder, with_current_names(model, entries), expected_tensors(model))


def with_current_names(model: nn.Module, state: JsonObject) -> JsonDict:
    """Return ``state`` with the names that today's diffusers uses.

    diffusers itself renames the attention layers that were saved before 2023.
    """
    fix: Any = getattr(model, "_fix_state_dict_keys_on_load", None)
    changed = dict(state)
    if fix is not None:
        fix(changed)
    return changed


def transformers_config(part: Component, kind: type[PreTrainedModel]) -> PretrainedConfig:
    """Return the config of a transformers network, as its class reads it from config.json.

    Args:
        part: The component.
        kind: The network's class.

    Raises:
        InputError: config.json is missing, or transformers refuses it.
    """
    with quiet_libraries(), foreign_errors(f"{part.folder}/config.json cannot be used"):
        return kind.config_class.from_pretrained(part.folder, local_files_only=True)


def check_loading_facts(
    part: Component,
    model: nn.Module,
    facts: JsonObject,
    entries: Mapping[str, TensorEntry],
) -> list[str]:
    """Check what transformers reports as missing, unknown or of another shape.

    transformers renames the tensors of older versions and knows tied weights, so its report counts.

    Args:
        part: The component.
        model: The loaded network.
        facts: The loading report of ``from_pretrained(output_loading_info=True)``.
        entries: The tensors of the component's files.

    Returns:
        Notes for the user.

    Raises:
        InputError: A tensor is missing, unknown or has another shape.
    """
    names = model.state_dict().keys()
    missing, unknown = sorted(facts["missing_keys"]), sorted(facts["unexpected_keys"])
    known = {name: entries.get(name, TensorEntry("F32", (2,))) for name in unknown}
    if missing or strange_tensors(known, unknown, names):
        raise names_error(part.folder, missing, unknown, len(names))
    for name, in_file, wanted in sorted(facts["mismatched_keys"]):
        raise shape_error(part.folder, name, tuple(in_file), tuple(wanted))
    return extra_note(part.folder, unknown)


def _check_transformers(
    part: Component, kind: type[PreTrainedModel], entries: Mapping[str, TensorEntry]
) -> list[str]:
    config = transformers_config(part, kind)
    state = {
        name: torch.empty(entry.shape, dtype=DTYPES.get(entry.dtype), device="meta")
        for name, entry in entries.items()
    }
    with quiet_libraries(), foreign_errors(f"{part.folder} cannot be loaded"):
        model, facts = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            device_map="meta",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return check_loading_facts(part, model, facts, entries)


def _class_notes(source: Source, prompts: bool) -> list[str]:
    """Refuse a pipeline class that is not installed; note it where no prompts are encoded."""
    from diffc.errors import InputError
    from diffc.models.classes import has_pipeline, pipeline_class

    if not source.is_pipeline or (not prompts and has_pipeline(source.index.get("_class_name"))):
        return []
    try:
        pipeline_class(source)
    except InputError as error:
        if prompts:
            raise
        return [f"{error}: the compressed pipeline opens where that class is"]
    return []
