"""Folder -> denoiser or pipeline, dense or compressed, without unpickling.

Weights come back in float32 and in evaluation mode, and are refused when a value is not finite.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffc.errors import InputError
from diffc.models.cut import load_cut, read_pruning, shaped, skeleton
from diffc.models.source import Source, check_safetensors, find
from diffc.torch_state import own_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@own_state()
def load(model: str | Path, *, allow_pickle: bool = False) -> DiffusionPipeline:
    """A diffusers pipeline from a folder, a hub id, ``demo``, or a compressed model's folder.

    Raises InputError when the folder is no pipeline or its weights cannot be used.
    """
    return load_pipeline(find(model, allow_pickle=allow_pickle))


def load_pipeline(source: Source) -> DiffusionPipeline:
    """The whole pipeline around ``source``'s denoiser, float32."""
    from diffusers import DiffusionPipeline

    if not source.is_pipeline:
        raise InputError(
            f"{source.folder} is a single {source.class_name}, not a pipeline",
            hint="give the pipeline's folder, the one with model_index.json",
        )
    denoiser = load_denoiser(source)
    pipeline: DiffusionPipeline = DiffusionPipeline.from_pretrained(
        source.folder,
        **{source.component: denoiser},
        local_files_only=True,
        torch_dtype=torch.float32,
    )
    return pipeline


def load_denoiser(source: Source) -> nn.Module:
    """The denoiser alone: float32, eval mode, every value finite (else InputError)."""
    if source.pruning is not None:
        model = load_cut(
            source.class_name, source.config, source.weights, read_pruning(source.folder)
        )
    else:
        model = _from_pretrained(source)
    nn.Module.to(model, torch.float32)  # diffusers' own ``to`` warns on every cast
    model.eval()
    _check_finite(model, source)
    return model


def meta_denoiser(source: Source) -> nn.Module:
    """The denoiser on the meta device: for planning, from configs alone."""
    if source.pruning is None:
        return skeleton(source.class_name, source.config)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in source.weights:
        shapes |= check_safetensors(path)
    return shaped(source.class_name, source.config, shapes, read_pruning(source.folder))


def _from_pretrained(source: Source) -> nn.Module:
    import diffusers

    safe = all(path.suffix == ".safetensors" for path in source.weights)
    variant = "fp16" if ".fp16" in source.weights[0].name else None
    cls: Any = getattr(diffusers, source.class_name)
    try:
        model: nn.Module = cls.from_pretrained(
            source.denoiser_folder,
            torch_dtype=torch.float32,
            use_safetensors=safe,
            local_files_only=True,
            variant=variant,
            low_cpu_mem_usage=False,
        )
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{source.denoiser_folder} cannot be loaded: {first[:200]}") from error
    return model


def _check_finite(model: nn.Module, source: Source) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(
                f"the weights of '{source.name}' hold NaN or infinity in {name}",
                hint="the file is damaged or its training diverged; nothing was done",
            )
