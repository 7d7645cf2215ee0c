"""The scheduler classes of diffusers that diffc supports, and how each reads its config.

    check_scheduler     refuse a class or a setting whose noise is unknown, from the config alone
    scheduler_settings  the config as the scheduler's own class reads it, defaults filled in
    is_flow             rectified flow, by the class or by its settings
    train_steps         T, the number of trained timesteps
    fitting_steps       a number of steps that T has room for

The class decides. Its constructor gives the defaults (betas, clipping, spacing), and what the class
does not do at all (a solver never clips) is not done because of a key in the config. Imports no
torch; ``scheduler_settings`` imports the class.
"""

from __future__ import annotations

import math
from functools import cache

from diffc.errors import InputError
from diffc.models.config_values import constructor_defaults
from diffc.models.families import flow_keys
from diffc_runtime.json_types import JsonDict, JsonObject

Config = JsonObject

CLIPPING = ("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler")
"""These classes clip x_0 by default; the others only if their config demands it."""
FEW_STEPS = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")
"""Samplers for models that were distilled for a few steps, guidance included."""
_FLOW = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)
_EITHER = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)
"""Solvers of a beta schedule that follow a flow where ``use_flow_sigmas`` is set."""
_BETAS = (
    *CLIPPING,
    *_EITHER,
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
KNOWN = (*_BETAS, *_FLOW)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")
SPACINGS = ("leading", "trailing", "linspace")
_WITHOUT_CLASS = "DDIMScheduler"
_UNSUPPORTED_SETTINGS = {"timestep_type": "continuous", "invert_sigmas": True}
"""Settings of known classes that make another noising process of them."""


def is_flow(config: Config) -> bool:
    """Return True if a scheduler's config is of rectified flow: by its class, or by its settings.

    Sana and Wan use solvers of beta schedules with flow's sigmas switched on.
    """
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return True
    return "FlowMatch" in str(config.get("_class_name", ""))


def train_steps(config: Config) -> int:
    """Return T, the number of timesteps of the model's training; 1000 in every known class."""
    return int(config.get("num_train_timesteps") or 1000)


def check_scheduler(config: Config) -> None:
    """Refuse a scheduler whose noise diffc does not know, from its config alone.

    Raises:
        InputError: The message names the class or the setting, and what is supported.
    """
    if not config:
        raise InputError(
            "there is no scheduler/scheduler_config.json, so the model's noise is unknown",
            hint="give the pipeline's folder",
        )
    name = str(config.get("_class_name") or "")
    if not name:
        raise InputError(
            "the scheduler's config names no class, so its noise is unknown",
            hint='put "_class_name" into scheduler_config.json, such as "DDPMScheduler"',
        )
    if name not in KNOWN:
        raise InputError(
            f"the noise of {name} is unknown to diffc",
            hint="known: DDPM, DDIM, PNDM, Euler, Heun, LMS, DPM-Solver, UniPC, DEIS, LCM, TCD and "
            "flow matching; EDM, score SDEs, consistency and trigflow models are not supported",
        )
    for key, value in _UNSUPPORTED_SETTINGS.items():
        if config.get(key) == value:
            raise InputError(
                f"{name} with {key} {value} has noise levels that diffc does not know",
                hint="schedulers with this setting are not supported",
            )
    _check_prediction(name, config)
    _check_numbers(config)
    if not is_flow(config):
        _check_betas(config)


def _check_prediction(name: str, config: Config) -> None:
    prediction = config.get("prediction_type", "epsilon")
    if name in _FLOW:
        return
    known: tuple[str, ...] = PREDICTIONS
    if config.get("use_flow_sigmas"):
        known = ("flow_prediction",)
    elif name in _EITHER:
        known = (*PREDICTIONS, "flow_prediction")
    if prediction not in known:
        along = " along a flow" if config.get("use_flow_sigmas") else ""
        raise InputError(
            f"the scheduler predicts '{prediction}'{along}, which diffc does not know",
            hint=f"known with {name}: {', '.join(known)}",
        )


def _check_numbers(config: Config) -> None:
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(
            f"the scheduler's num_train_timesteps is {steps!r}, which is not a number of steps",
            hint="put the number of timesteps that the model was trained on",
        )
    for key in ("beta_start", "beta_end", "shift", "flow_shift", "steps_offset"):
        value = config.get(key)
        if value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError(f"the scheduler's {key} is {value!r}, which is not a number")
        if key == "steps_offset" and not 0 <= value < steps:
            raise InputError(
                f"the scheduler's steps_offset {value} is outside its {steps} timesteps",
                hint="0 or 1 is usual",
            )
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in SPACINGS:
        raise InputError(
            f"the scheduler's timestep_spacing '{spacing}' is unknown",
            hint=f"known: {', '.join(SPACINGS)}",
        )


def _check_betas(config: Config) -> None:
    steps, trained = train_steps(config), config.get("trained_betas")
    if trained is None:
        schedule = config.get("beta_schedule", "linear")
        if schedule not in BETA_SCHEDULES:
            raise InputError(
                f"the scheduler's beta_schedule '{schedule}' is unknown",
                hint=f"known: {', '.join(BETA_SCHEDULES)}, or trained_betas",
            )
        ends = [
            value for key in ("beta_start", "beta_end") if (value := config.get(key)) is not None
        ]
        if not all(0 < value < 1 for value in ends):
            raise InputError(
                f"the scheduler's betas, {' to '.join(map(str, ends))}, are not between 0 and 1"
            )
        return
    if not isinstance(trained, list | tuple) or len(trained) != steps:
        count = f"{len(trained)} values" if isinstance(trained, list | tuple) else repr(trained)
        raise InputError(
            f"the scheduler's trained_betas hold {count}, and num_train_timesteps is {steps}",
            hint="both must be of the same number",
        )
    if not all(isinstance(beta, int | float) and 0 < beta < 1 for beta in trained):
        raise InputError("the scheduler's trained_betas are not all numbers between 0 and 1")


_AMENDED = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPAGImg2ImgPipeline",
    "StableDiffusionPAGInpaintPipeline",
    "AltDiffusionPipeline",
    "AltDiffusionImg2ImgPipeline",
    "StableDiffusionPipelineSafe",
    "LEditsPPPipelineStableDiffusion",
)
"""Pipelines whose constructor corrects old configs: no clipping of latents, timesteps from 1."""


_INPAINTING = "StableDiffusionInpaintPipeline"
"""It counts timesteps from 1 too, and leaves clipping as it is."""


def _without_runge_kutta(config: Config) -> JsonDict:
    return {"skip_prk_steps": True} if config.get("skip_prk_steps") is False else {}


def with_pipeline_changes(config: Config, index: Config) -> JsonDict:
    """Return a scheduler's config with the changes that its pipeline makes when it is opened.

    Args:
        config: The content of scheduler_config.json.
        index: The content of model_index.json, which also names a class that the config leaves out.
    """
    entry = index.get("scheduler")
    changed = dict(config)
    if config and not config.get("_class_name") and isinstance(entry, list) and entry[-1]:
        changed["_class_name"] = entry[-1]
    if index.get("_class_name") == _INPAINTING and config:
        return {**changed, "steps_offset": 1, **_without_runge_kutta(changed)}
    if index.get("_class_name") not in _AMENDED or not config:
        return changed
    if changed.get("_class_name") in CLIPPING and changed.get("clip_sample", True) is True:
        changed["clip_sample"] = False
    if changed.get("steps_offset", 0) != 1 and not is_flow(changed):
        changed["steps_offset"] = 1
    return changed


def scheduler_settings(config: Config) -> JsonDict:
    """Return the config as its class reads it.

    The class's defaults are filled in, and keys that the class does not have are left out: they
    belong to another class. Behaviour that has no key is added: whether the class clips x_0, the
    spacing of its timesteps, and whether sampling ends at the clean sample (``set_alpha_to_one``).

    Args:
        config: The content of scheduler_config.json.

    Raises:
        InputError: The class is not installed, and the config leaves out a key.
    """
    name = str(config.get("_class_name") or _WITHOUT_CLASS)
    defaults = _defaults(name)
    added = flow_keys()
    own = {
        key: value
        for key, value in config.items()
        if key in defaults or key in added or (not defaults and not key.startswith("_"))
    }
    full: JsonDict = {"_class_name": name, **defaults, **own}
    if not defaults:
        _check_complete(full)
    if not is_flow(full):
        full.setdefault("clip_sample", False)
        full.setdefault("rescale_betas_zero_snr", False)
        full.setdefault("timestep_spacing", "linspace")
        full.setdefault("set_alpha_to_one", full.get("final_sigmas_type") != "sigma_min")
        if full.get("steps_offset") is None:
            full["steps_offset"] = 0
    return full


def _check_complete(config: JsonDict) -> None:
    """Raise InputError for a missing key whose default only a class that is not installed has."""
    missing = [key for key in ("beta_start", "beta_end", "beta_schedule") if key not in config]
    if missing and not is_flow(config) and config.get("trained_betas") is None:
        raise InputError(
            f"the scheduler's config leaves out {', '.join(missing)}, and its class "
            f"{config['_class_name']} is not installed, which would say it",
            hint="save the scheduler again with all of its settings",
        )
    config.setdefault("trained_betas", None)
    config.setdefault("prediction_type", "epsilon")


@cache
def _defaults(name: str) -> JsonDict:
    """Return the defaults of a scheduler's constructor; {} if the class cannot be imported."""
    import diffusers

    return constructor_defaults(getattr(diffusers, name, None))


def fitting_steps(config: Config, steps: int) -> int:
    """Return ``steps``, or the largest number that T has room for.

    With leading timesteps and an offset, the largest visited timestep is (steps - 1) (T // steps) +
    offset, which must be one of the T.
    """
    total = train_steps(config)
    steps = min(steps, total)
    if is_flow(config) or config.get("timestep_spacing", "leading") != "leading":
        return steps
    offset = int(config.get("steps_offset") or 0)
    while steps > 1 and (steps - 1) * (total // steps) + offset >= total:
        steps -= 1
    return steps


def steps_note(config: Config, what: str, steps: int) -> list[str]:
    """Return a sentence about a number of steps that is lowered; [] if the number fits."""
    fitting = fitting_steps(config, steps)
    if fitting == steps:
        return []
    return [
        f"{what}: {fitting} instead of {steps}, "
        f"because the model has {train_steps(config)} timesteps"
    ]
