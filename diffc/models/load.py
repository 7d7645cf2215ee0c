"""Component -> network, source -> denoiser or pipeline; dense or compressed.

    load_pipeline     every network of a source, put together by its pipeline's class
    load_text_parts   the tokenizers and text encoders alone
    load_denoiser     the denoiser alone, cut or not
    load_component    any network of a pipeline: VAE, text encoder, ...

Weights are read here, not by the libraries' own search for files: they come from the files that the
component's layout names, every tensor is compared with the class before it is used, and nothing is
unpickled unless that was allowed. Networks come back in float32 and in evaluation mode, and are
refused when a value is not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffc.errors import InputError
from diffc.models import reasons
from diffc.models.checking import (
    check_denoiser,
    check_diffusers_tensors,
    check_loading_facts,
    transformers_config,
    with_current_names,
)
from diffc.models.classes import (
    component_class,
    is_diffusers_model,
    is_transformers_model,
    pipeline_class,
)
from diffc.models.components import Component
from diffc.models.cut import cut_skeleton, load_cut, pruning_of, remember_pruning, skeleton
from diffc.models.files import TensorEntry
from diffc.models.foreign import foreign_errors, quiet_libraries
from diffc.models.loras.fusing import fuse_model, fuse_state
from diffc.models.source import Source
from diffc.models.states import entries_of, read_entries, read_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Own = Callable[[torch.Tensor], torch.Tensor]
"""Turns a tensor as a file has it into one of the network's own."""


def load_pipeline(source: Source) -> DiffusionPipeline:
    """The whole pipeline around ``source``'s denoiser, float32. Raises InputError."""
    kind = pipeline_class(source)
    networks: dict[str, Any] = {}
    for part in source.components:
        if part.name == source.component:
            networks[part.name] = load_denoiser(source)
        elif part.is_network and _is_absent(part, kind):
            warnings.warn(f"{part.folder} has no weights: the pipeline goes without", stacklevel=3)
            networks[part.name] = None
        elif part.is_network and _is_loaded_here(part):
            networks[part.name] = load_component(part)
        else:
            part.need_folder()
    return _put_together(source, kind, networks)


def load_text_parts(
    source: Source, load: Callable[[Component], nn.Module] | None = None
) -> DiffusionPipeline:
    """The pipeline with its tokenizers and text encoders alone.

    load: opens an encoder; None: ``load_component``.

    Raises InputError.
    """
    load, kind = load or load_component, pipeline_class(source)
    networks: dict[str, Any] = {}
    for part in source.components:
        if part.is_text_encoder:
            networks[part.name] = load(part)
        elif not part.is_tokenizer:
            networks[part.name] = None
        else:
            part.need_folder()
    pipeline = _put_together(source, kind, networks)
    if getattr(pipeline, "text_encoder_3", "") is None:
        # Stable Diffusion 3 without T5 puts zeros in its place, as wide as the denoiser takes them.
        stand_in = SimpleNamespace(config=SimpleNamespace(**source.config))
        object.__setattr__(pipeline, source.component, stand_in)
    return pipeline


def load_denoiser(source: Source, *, own: Own | None = None) -> nn.Module:
    """The denoiser alone: float32, eval mode, every value finite (else InputError).

    own: tensor of a file -> float32 tensor of the network; None: a copy in memory.
    """
    if not source.is_cut:
        return load_component(source.denoiser, own=own)
    check_denoiser(source)
    pruning = pruning_of(source)
    model = load_cut(source.class_name, source.config, source.weights, pruning)
    if own is not None:
        state = {name: own(value) for name, value in model.state_dict().items()}
        model.load_state_dict(state, strict=True, assign=True)
    nn.Module.to(model, torch.float32)  # diffusers' own ``to`` warns on every cast
    fuse_model(source.denoiser, model)
    _check_finite(model, source.denoiser_folder)
    remember_pruning(model, pruning)
    return model.eval()


def meta_denoiser(source: Source) -> nn.Module:
    """The denoiser on the meta device: for planning, from configs alone.

    Raises InputError where weights are there and are not the config's.
    """
    dense = skeleton(source.class_name, source.config)
    check_denoiser(source, dense)
    if not source.is_cut:
        return dense
    entries = read_entries(source.denoiser.need_weights()) if source.weights else {}
    shapes = {name: entry.shape for name, entry in entries.items()}
    return cut_skeleton(source.class_name, source.config, shapes, pruning_of(source))


def load_component(part: Component, *, own: Own | None = None) -> nn.Module:
    """A network of a pipeline: float32, eval mode, every value finite.

    own: as ``load_denoiser`` takes it.

    Raises InputError when its files are not whole, not its class's, or only pickles without leave.
    """
    part.need_folder()
    reasons.check_not_quantised(part.folder, part.config)
    weights, kind = part.need_weights(), component_class(part)
    state = read_state(weights)
    if part.loras is not None and not is_diffusers_model(kind):
        state = fuse_state(part, state)  # by the names of the file, as LoRAs have them
    if is_diffusers_model(kind):
        entries = entries_of(state) if weights.is_pickled else weights.entries()
        model = _diffusers_model(part, kind, state, entries, own or _float32_copy)
    else:
        model = _transformers_model(part, kind, state, own)
    _check_finite(model, part.folder)
    return model.eval()


def _diffusers_model(
    part: Component,
    kind: Any,
    state: Mapping[str, torch.Tensor],
    entries: Mapping[str, TensorEntry],
    own: Own,
) -> nn.Module:
    model = skeleton(part.class_name, part.config, real_buffers=True, kind=kind)
    check_diffusers_tensors(part, model, entries)
    tensors = with_current_names(model, state)
    values = {name: own(tensors[name]) for name in model.state_dict()}
    model.load_state_dict(values, strict=True, assign=True)
    fuse_model(part, model)
    return model


def _transformers_model(
    part: Component, kind: Any, state: Mapping[str, torch.Tensor], own: Own | None
) -> nn.Module:
    config, entries = transformers_config(part, kind), entries_of(state)
    if own is not None:  # the library takes tensors that are float32 already as they are
        state = {name: own(value) for name, value in state.items()}
    with quiet_libraries(), foreign_errors(f"{part.folder} cannot be loaded"):
        model, facts = kind.from_pretrained(
            None, config=config, state_dict=dict(state), dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    check_loading_facts(part, model, facts, entries)
    network: nn.Module = model
    return network


def _float32_copy(value: torch.Tensor) -> torch.Tensor:
    """A copy in memory: what was read is a view of the file, which may change meanwhile."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.to(dtype, copy=True).contiguous()


def _put_together(source: Source, kind: Any, networks: Mapping[str, Any]) -> DiffusionPipeline:
    """The pipeline of ``networks``, with its other parts as the library reads them."""
    accepted = set(kind._get_signature_keys(kind)[0])
    nulls = {name for name in accepted if source.find_component(name) is None}
    given = {name: part for name, part in networks.items() if name in accepted}
    with quiet_libraries(), foreign_errors(f"the pipeline {source.folder} cannot be opened"):
        pipeline: DiffusionPipeline = kind.from_pretrained(
            source.folder,
            **dict.fromkeys(nulls),
            **given,
            local_files_only=True,
            use_safetensors=True,
        )
    return pipeline


def _is_loaded_here(part: Component) -> bool:
    kind = component_class(part)
    return is_diffusers_model(kind) or is_transformers_model(kind)


def _is_absent(part: Component, kind: Any) -> bool:
    """Whether an optional component, such as a safety checker, was left out of the download."""
    return part.name in kind._optional_components and part.weights is None


_PART = 1 << 22
"""Values that are looked at together: torch.isfinite takes several bytes for each of them."""


def _is_finite(value: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; in parts, since a mapped tensor may be larger than what
    memory is left."""
    flat = value.flatten()
    firsts = range(0, flat.numel(), _PART)
    return all(bool(torch.isfinite(flat[first : first + _PART]).all()) for first in firsts)


def _check_finite(model: nn.Module, where: Path) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not _is_finite(value):
            raise InputError(
                f"the weights of {where} hold NaN or infinity in {name}",
                hint="the file is damaged or its training diverged; nothing was done",
            )
