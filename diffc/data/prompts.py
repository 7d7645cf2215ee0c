"""Encodes prompts from a text file as the conditions of a text-conditioned denoiser.

The pipeline's own ``encode_prompt`` encodes them, once; the denoiser and the VAE are not loaded for
it. The empty prompt gives the null conditions of classifier-free guidance, which training puts in
the place of a share of the others, so that the guided difference is distilled as well.

    read_prompts     a text file -> its lines (prompt_file.py)
    encode_prompts   lines -> EncodedPrompts: rows for each condition, and the null row
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffc.data.conditions import pipeline_conditions
from diffc.data.guidance import argument_defaults, decide_guidance, find_pipeline_class
from diffc.data.prompt_file import read_prompts
from diffc.errors import InputError, RequestError, in_short
from diffc.models.components import INDEX
from diffc.models.families import family
from diffc.models.families.base import Family, TextPlaces
from diffc.models.source import Source
from diffc_export.events import Progress, Work
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["ENCODERS", "EncodedPrompts", "encode_prompts", "read_prompts"]
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PROMPTS_AT_ONCE = 16
"""Prompts that are encoded by one call."""
_TEXT_PARTS = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class EncodedPrompts:
    """The conditions of a list of prompts.

    Attributes:
        rows: Condition -> (M, ...), one row a prompt.
        null: Condition -> (...), the empty prompt's. Empty for a model that is not guided: its
            guidance is an input (FLUX.1-dev), or was distilled into it.
        notes: Sentences for the report about conditions other than text.
    """

    rows: Mapping[str, Tensor]
    null: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def text_conditions(source: Source) -> TextPlaces:
    """Return the conditions that the pipeline's text encoders give.

    Raises:
        RequestError: The model takes no prompts.
        InputError: diffc does not know how its pipeline encodes prompts.
    """
    places = family(source.class_name).text_places
    if not places or not source.is_pipeline:
        raise RequestError(
            f"prompts were given, and {source.name}'s {source.class_name} takes none",
            hint="leave the prompts out, or give the whole pipeline's folder",
        )
    kind = find_pipeline_class(source)
    if kind is not None:
        _check_encoder(kind)
    return places


def _check_encoder(kind: type[DiffusionPipeline]) -> None:
    """Raise InputError for a pipeline class without an ``encode_prompt`` that diffc can call."""
    encode = getattr(kind, "encode_prompt", None)
    if encode is None:
        reason = "it has no encode_prompt"
    else:
        wanted = [
            name
            for name, parameter in inspect.signature(encode).parameters.items()
            if parameter.default is parameter.empty and parameter.kind == _NAMED
        ]
        given = {"self", "prompt", *_offered_arguments(0, None), *argument_defaults(kind.__call__)}
        missing = [name for name in wanted if name not in given]
        reason = f"its encode_prompt wants {', '.join(missing)}" if missing else ""
    if reason:
        raise InputError(
            f"{kind.__name__} encodes no prompts as diffc knows it: {reason}",
            hint="give the encoded conditions in their place: --data FILE.safetensors",
        )


_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


def encode_prompts(
    source: Source,
    specs: Sequence[TensorSpec],
    prompts: Sequence[str],
    batch: int = PROMPTS_AT_ONCE,
    guidance: float | None = None,
) -> Work[EncodedPrompts]:
    """Encode each prompt as the conditions in ``specs``, as the pipeline's own call does.

    Args:
        source: The model, with its pipeline around it.
        specs: The denoiser's inputs.
        prompts: One row each.
        batch: The number of prompts that are encoded at once.
        guidance: The user's scale; None: decide from the model.

    Raises:
        RequestError: The model takes no prompts.
        InputError: The encoders cannot be loaded, or give other shapes than the denoiser takes.
    """
    places = text_conditions(source)
    shapes = {spec.name: spec.shape for spec in specs if spec.name in places}
    parts: list[dict[str, Tensor]] = []
    null: dict[str, Tensor] = {}
    fixed = pipeline_conditions(source, specs, guidance)
    with _text_encoders(source) as encoders:
        for start in range(0, len(prompts), batch):
            encoded = _encode(encoders, specs, list(prompts[start : start + batch]))
            parts.append(
                {
                    name: _condition_from(encoded, places[name][0], name, shapes[name])
                    for name in shapes
                }
            )
            yield Progress(min(start + batch, len(prompts)), len(prompts), "encoding prompts")
        if decide_guidance(source, guidance).has_null:
            null = {**_encode_null(encoders, specs, shapes), **fixed.null}
    rows = {name: torch.cat([part[name] for part in parts]) for name in shapes}
    same = {n: v.expand(len(prompts), *v.shape).clone() for n, v in fixed.rows.items()}
    return EncodedPrompts(rows | same, null, tuple(fixed.notes()))


def _encode_null(
    encoders: _Encoders, specs: Sequence[TensorSpec], shapes: JsonObject
) -> dict[str, Tensor]:
    """Return the conditions of the empty prompt, from which the pipeline guides away."""
    places = encoders.family.text_places
    known = inspect.signature(encoders.pipeline.encode_prompt).parameters
    if "do_classifier_free_guidance" not in known:
        empty = _encode(encoders, specs, [""])
        return {
            name: _condition_from(empty, places[name][0], name, shapes[name])[0] for name in shapes
        }
    empty = _encode(encoders, specs, [""], negative=True)
    return {name: _condition_from(empty, places[name][1], name, shapes[name])[0] for name in shapes}


@dataclass(frozen=True)
class _Encoders:
    """A pipeline with its tokenizers and text encoders alone, and the family of its denoiser."""

    pipeline: DiffusionPipeline
    family: Family


@contextmanager
def _text_encoders(source: Source) -> Iterator[_Encoders]:
    """The encoders on the best device that has room; on the CPU their weights stay in their files.

    The largest encoders are several times as large as the denoiser.
    """
    from diffc.models.mapped import mapped_text_parts

    with mapped_text_parts(source) as pipeline:
        yield _Encoders(pipeline.to(_device_with_room(source)), family(source.class_name))


_GPU_SHARE = 0.8
"""Encoders whose weights take more of a GPU's free memory than this run on the CPU."""


def _device_with_room(source: Source) -> torch.device:
    from diffc.data.precision import best_device
    from diffc_runtime.machine.out_of_memory import gpu_memory

    device = best_device()
    free = gpu_memory() if device.type == "cuda" else None
    weights = torch.float32.itemsize * text_elements(source)
    return torch.device("cpu") if free and weights > _GPU_SHARE * free[0] else device


def text_elements(source: Source) -> int:
    """The parameters of the pipeline's text encoders; 0 for weights that are pickled."""
    encoders = [part for part in source.components if part.is_text_encoder]
    return sum(entry.elements for part in encoders for entry in part.tensors().values())


def _offered_arguments(
    tokens: int, device: torch.device | None, negative: bool = False
) -> JsonDict:
    """Return the arguments that diffc passes to ``encode_prompt`` if it takes them."""
    return {
        "device": device,
        "prompt_2": None,
        "prompt_3": None,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "do_classifier_free_guidance": negative,
        "max_sequence_length": tokens,
    }


def encoding_arguments(kind: type[Any], tokens: int, device: Any, negative: bool) -> JsonDict:
    """Return the arguments of ``encode_prompt`` beside the prompts, as the pipeline's call does.

    The call's own defaults count, not encode_prompt's: Sana's call puts an instruction before the
    prompt, PixArt's cleans it.

    Args:
        kind: The pipeline's class.
        tokens: The length of the text encoder's sequence.
        device: The device of the encoders.
        negative: True if the negative prompt is encoded as well.
    """
    known = inspect.signature(kind.encode_prompt).parameters
    defaults = argument_defaults(kind.__call__)
    offered = _offered_arguments(tokens, device, negative)
    return {
        name: offered.get(name, defaults.get(name))
        for name in known
        if name in offered or (name in defaults and name != "prompt")
    }


@torch.no_grad()
def _encode(
    encoders: _Encoders, specs: Sequence[TensorSpec], prompts: list[str], negative: bool = False
) -> Sequence[Any]:
    pipeline = encoders.pipeline
    tokens = next(spec.shape[0] for spec in specs if spec.name == "encoder_hidden_states")
    tokens = encoders.family.encoded_tokens(tokens)
    arguments = encoding_arguments(type(pipeline), tokens, pipeline.device, negative)
    try:
        encoded: Sequence[Any] = pipeline.encode_prompt(prompts, **arguments)
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise InputError(
            f"{type(pipeline).__name__} cannot encode the prompts: {_reason(pipeline, error)}",
            hint="give the encoded conditions in their place: --data FILE.safetensors",
        ) from error
    return encoded


def _reason(pipeline: DiffusionPipeline, error: Exception) -> str:
    """Why the prompts cannot be encoded: by a part that the pipeline goes without, in plain words.

    Not every part that is null is the reason: Stable Diffusion 3 goes without its T5.
    """
    null = [
        name
        for name, part in pipeline.components.items()
        if part is None and name.startswith(_TEXT_PARTS)
    ]
    if null and "NoneType" in str(error):
        return f"{INDEX} has [null, null] for its {' and '.join(null)}"
    return in_short((str(error).strip() or type(error).__name__).splitlines()[0])


def _condition_from(
    encoded: Sequence[Any], place: int | None, name: str, shape: tuple[int, ...]
) -> Tensor:
    """Return one of the tensors that encode_prompt returned, if it has the denoiser's shape."""
    value = encoded[place] if place is not None and place < len(encoded) else None
    if not isinstance(value, Tensor):
        raise InputError(
            f"the pipeline's text encoders give no '{name}', which the denoiser takes",
            hint="give the encoded conditions in their place: --data FILE.safetensors",
        )
    if tuple(value.shape[1:]) != tuple(shape):
        raise InputError(
            f"the text encoders give '{name}' of shape {tuple(value.shape[1:])}; "
            f"the denoiser takes {tuple(shape)}"
        )
    return value.cpu()
