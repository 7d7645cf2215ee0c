"""Classifier-free guidance of a run: its scale, and why a model is sampled without it.

decide_guidance    the scale, from the model unless the user gives one; without torch
embedded_guidance  the scale for models that take it as an input
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffc.models.families import family
from diffc.models.schedulers import FEW_STEPS
from diffc.models.source import Source
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

USUAL_SCALE = 4.0
_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_NAMES = re.compile(
    r"(?:^|[-_./ ])(turbo|lightning|lcm|schnell|sprint|hyper|tcd|dmd2?)(?=$|[-_./@ \d])", re.I
)


@dataclass(frozen=True)
class Guidance:
    """The guidance of a run.

    Attributes:
        scale: The scale of classifier-free guidance; 1 means none.
        reason: Why the model has no guidance; None if it has.
    """

    scale: float
    reason: str | None = None

    @property
    def has_null(self) -> bool:
        """True if there are null conditions to guide away from; only then the empty prompt is
        encoded.
        """
        return self.reason is None


def decide_guidance(source: Source, given: float | None) -> Guidance:
    """Return the guidance with which the dense model is sampled.

    Args:
        source: The model.
        given: The user's scale; None: decide from the model.
    """
    if takes_guidance(source):
        return Guidance(1.0, "its guidance is an input")
    if not family(source.class_name).is_guided:
        return Guidance(1.0, "its pipeline uses none")
    if given is not None:
        return Guidance(given)
    reason = _few_steps(source)
    return Guidance(1.0, reason) if reason else Guidance(USUAL_SCALE)


def takes_guidance(source: Source) -> bool:
    """True if the scale is an input of the denoiser: FLUX.1-dev's, or a consistency model's."""
    return bool(source.config.get("guidance_embeds") or source.config.get("time_cond_proj_dim"))


def _few_steps(source: Source) -> str | None:
    """Return why a model counts as distilled for few steps, guidance included; None for others.

    Published Turbo and Lightning pipelines sample with Euler over trailing timesteps. Models that
    were trained down to zero signal use that spacing as well; their config says so.
    """
    config = source.scheduler
    name = str(config.get("_class_name", ""))
    if name in FEW_STEPS:
        return f"{name} samples models that are distilled for few steps"
    trailing = config.get("timestep_spacing") == "trailing"
    if name in _EULER and trailing and not config.get("rescale_betas_zero_snr"):
        return f"{name} with trailing timesteps samples models that are distilled for few steps"
    for words in (source.name.rstrip("/").rsplit("/", 1)[-1], source.index.get("_name_or_path")):
        match = _NAMES.search(str(words or ""))
        if match:
            return f"'{match[1]}' in its name means a model that is distilled for few steps"
    return None


def guidance_notes(source: Source, given: float | None) -> list[str]:
    """Return a sentence if a model is sampled without guidance and the user did not decide so."""
    guidance = decide_guidance(source, given)
    if guidance.reason is None or takes_guidance(source):
        return []
    if given is not None:
        return [f"--guidance {given:g} has no effect: {guidance.reason}"]
    return [f"no classifier-free guidance: {guidance.reason} (--guidance changes it)"]


def embedded_guidance(source: Source, given: float | None) -> float:
    """Return the scale for a model with guidance as an input: the user's, or the pipeline's."""
    if given is not None:
        return given
    default = call_defaults(source).get("guidance_scale")
    return float(default) if default is not None else 3.5


def find_pipeline_class(source: Source) -> type[DiffusionPipeline] | None:
    """Return the model's own pipeline class; None if diffusers has none of that name."""
    from diffc.models.classes import diffusers_class

    kind: type[DiffusionPipeline] | None = diffusers_class(str(source.index.get("_class_name", "")))
    return kind


def call_defaults(source: Source) -> JsonDict:
    """Return the defaults of the call of the model's own pipeline class; {} if there is none."""
    kind = find_pipeline_class(source)
    return argument_defaults(kind.__call__) if kind is not None else {}


def argument_defaults(function: Callable[..., object]) -> JsonDict:
    """Return the default values in a function's signature."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
