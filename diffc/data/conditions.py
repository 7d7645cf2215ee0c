"""Conditions other than text: the values that the model's own pipeline passes by default.

    pipeline_conditions       a row of each, and the null row if the pipeline has another
    check_condition_values    refuse a condition without a value, before any work
    missing_condition_error   the error for it

Sources: diffusers' pipelines; SDXL's sizes are Podell et al. 2023 (2307.01952), section 2.2, the
guidance embedding Luo et al. 2023 (2310.04378), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffc.data.guidance import call_defaults, embedded_guidance
from diffc.data.inputs import LABELS
from diffc.data.latents import scale_factor
from diffc.errors import RequestError
from diffc.models.families.examples import dtype_of
from diffc.models.source import Source
from diffc_export.specs import TensorSpec
from diffc_runtime.image_conditions import IMAGE_CONDITIONS

_REFINER_IDS = 5
"""The base model's six ids are three sizes; the refiner's last id is an aesthetic score."""


@dataclass(frozen=True)
class PipelineConditions:
    """The conditions that every sample of a pipeline shares.

    Attributes:
        rows: Name -> the value (...) for every prompt.
        null: Name -> the value (...) for the empty prompt, if it differs.
    """

    rows: Mapping[str, Tensor]
    null: Mapping[str, Tensor]

    def notes(self) -> list[str]:
        """Return a sentence that names the values, for the report."""
        if not self.rows:
            return []
        shown = ", ".join(f"{name}{_short(value)}" for name, value in sorted(self.rows.items()))
        return [f"conditions other than text, as the model's own pipeline passes them: {shown}"]


def pipeline_conditions(
    source: Source, specs: Sequence[TensorSpec], guidance: float | None = None
) -> PipelineConditions:
    """Return the values of the conditions in ``specs`` that every sample of the pipeline shares.

    Args:
        source: The model.
        specs: The denoiser's inputs.
        guidance: The scale for a model that takes it as an input; None: its pipeline's.
    """
    rows: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    height, width = _pixels(source, specs)
    for spec in specs:
        if spec.kind != "condition" or spec.name not in _VALUES:
            continue
        place = _ConditionContext(source, spec, height, width, guidance)
        rows[spec.name] = _VALUES[spec.name](place).to(dtype_of(spec))
        if spec.name == "time_ids" and spec.shape[0] == _REFINER_IDS:
            null[spec.name] = _time_ids(place, "negative_aesthetic_score", 2.5)
    return PipelineConditions(rows, null)


@dataclass(frozen=True)
class _ConditionContext:
    """Everything that a value may depend on; height and width are the images', in pixels."""

    source: Source
    spec: TensorSpec
    height: int
    width: int
    guidance: float | None


def _time_ids(
    place: _ConditionContext, score: str = "aesthetic_score", usual: float = 6.0
) -> Tensor:
    size = [float(place.height), float(place.width)]
    if place.spec.shape[0] != _REFINER_IDS:
        return torch.tensor([*size, 0.0, 0.0, *size])
    default = call_defaults(place.source).get(score)
    value = float(default) if isinstance(default, int | float) else usual
    return torch.tensor([*size, 0.0, 0.0, value])


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Return (width,) sinusoids of 1000 scale, the form in which latent consistency models take
    guidance.
    """
    half = width // 2
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half) / (half - 1))
    angles = 1000.0 * scale * rates
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, width % 2))


def _timestep_cond(place: _ConditionContext) -> Tensor:
    scale = embedded_guidance(place.source, place.guidance)
    return guidance_embedding(scale - 1.0, place.spec.shape[0])


def _guidance(place: _ConditionContext) -> Tensor:
    scale = embedded_guidance(place.source, place.guidance)
    return torch.tensor(scale * float(place.source.config.get("guidance_embeds_scale") or 1.0))


_VALUES: Mapping[str, Callable[[_ConditionContext], Tensor]] = {
    "time_ids": _time_ids,
    "timestep_cond": _timestep_cond,
    "guidance": _guidance,
    "resolution": lambda place: torch.tensor([float(place.height), float(place.width)]),
    "aspect_ratio": lambda place: torch.tensor([place.height / place.width]),
}


def _pixels(source: Source, specs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Return height and width of the images of the denoiser's sample; 1 for other samples."""
    sample = next(spec.shape for spec in specs if spec.kind == "sample")
    if len(sample) != 3:
        return 1, 1
    factor = scale_factor(source)
    return sample[1] * factor, sample[2] * factor


def _short(value: Tensor) -> str:
    if value.numel() > 6:
        return ""
    return " " + " ".join(f"{number:g}" for number in value.reshape(-1).tolist())


def check_condition_values(specs: Sequence[TensorSpec], text: Sequence[str] | None) -> None:
    """Refuse a condition for which neither the user nor the pipeline has a value.

    Labels are drawn or come with the data (``inputs.check_conditions``); conditions of images are
    made of the calibration images.

    Args:
        specs: The denoiser's inputs.
        text: The conditions that the pipeline's text encoders give; None: there are no prompts.

    Raises:
        RequestError: A condition has no value; the message names the first one.
    """
    known = {LABELS, *IMAGE_CONDITIONS}
    known |= set() if text is None else {*text, *_VALUES}
    for spec in specs:
        if spec.kind == "condition" and spec.name not in known:
            raise missing_condition_error(spec.name, text is not None)


def missing_condition_error(name: str, beside_prompts: bool = False) -> RequestError:
    """Return the error for a condition without a value.

    Args:
        name: The denoiser's input.
        beside_prompts: True if prompts are given but do not determine it.
    """
    if beside_prompts:
        return RequestError(
            f"the model takes '{name}', which prompts do not give and diffc has no value for",
            hint=f"give --data FILE.safetensors with '{name}' (N, ...) and the other conditions",
        )
    return RequestError(
        f"the model takes '{name}', and none was given to sample it with",
        hint="--prompts FILE for a text model, or --data FILE.safetensors, "
        f"with '{name}' (N, ...) and the other conditions",
    )
