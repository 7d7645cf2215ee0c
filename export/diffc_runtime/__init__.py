"""The serving runtime: engines and samplers on numpy and one engine runtime.

    schedules.py   betas, alpha_bar, timesteps, sigmas
    schedulers.py  a sampler by name, from a scheduler's config
    stepping.py    the base of every sampler
    loop.py        a sampling loop as people name it: sampler, steps, guidance, spacing
    denoising.py   the sampling loop itself
    discrete.py    DDPM, DDIM
    dpm.py         DPM-Solver++ 2M (Lu et al.), its stochastic form, and along a flow
    euler.py       Euler's method over sigmas: of a beta schedule, ancestral, of flow matching
    flow_settings.py  what pipelines of flows add to their scheduler's config
    heun.py        Heun's method over sigmas
    unipc.py       UniPC (Zhao et al.)
    pndm.py        PLMS and pseudo Runge-Kutta (Liu et al.)
    consistency.py LCM (Luo et al.)
    clean.py       x_0 from a model's output by the config's prediction type, kept in range
    pipeline.py    seed, steps, guidance, conditions -> images
    copying.py     what a copy of a pipeline is
    calls.py       the arguments of a call, as conditions
    keywords.py    what is said to a keyword that no argument has
    guided_call.py the denoiser's calls for one batch, with guidance
    image_inputs.py  an image, and a mask, that a call begins with
    image_conditions.py  the names of the conditions that denoisers take of an image
    image_sizes.py which sizes an engine was built for, and which one a call wants
    packing.py     latents as tokens, and back
    latent_scale.py  latents in the denoiser's scale and in the VAE's
    prompt_plan.py how a pipeline turns a prompt into conditions, as data
    prompts.py     tokenizers and text encoders: prompts -> conditions
    tokens.py      a prompt -> tokens
    checks.py      a request's numbers and conditions
    noise.py       the noise of image i of a seed
    output.py      a call's images, as Pillow's or as numpy arrays
    saving.py      images -> one file, numbered files or a grid; nothing is overwritten in silence
    engines.py     an engine folder -> a call, or why it does not fit this machine
    loaders/       one file for each target whose engines it runs, found by the target's name
    libraries/     the only places that open an engine: ONNX Runtime, OpenVINO, TensorRT
    machine/       processor, GPUs, driver, CUDA, memory that ran out, installed packages
    engine_folder.py  engine.json and the files that it names
    fit.py         does an engine fit this machine?
    loras.py       LoRAs that a call picks by name, in the weights of an engine's file
    shared_calls.py  one engine for the loops of several threads
    bundles.py     a bundle's folder -> a Pipeline
    files.py       files and folders written whole or not at all, and their hashes
    images.py      samples -> uint8, grids, PNG
    values.py      types that several modules name
    json_types.py  the content of JSON files, as types
    errors.py      what can go wrong, and the exit code each case ends with
    servers/       templates for inference servers: copied into a bundle, never imported
    arguments.py   conditions on a command line
    array_files.py what numpy raises for a file of arrays that is damaged
    __main__.py    python -m diffc_runtime generate | info

Only relative imports, so that the folder works under any name, wherever it is copied. What is
public is imported when it is first used: diffc takes its errors from here, without numpy.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundles import open_bundle
    from .engines import Engine, open_engine
    from .errors import BadRequest, UnfitEngine
    from .images import grid, to_uint8, write_png
    from .output import PipelineOutput
    from .pipeline import Input, Pipeline
    from .schedulers import NAMES, scheduler
    from .stepping import Scheduler

# CUDA numbers the fastest GPU first, nvidia-smi numbers GPUs by their place on the bus. Without
# this setting, an engine could run on another GPU than the first one of its fingerprint.
# CUDA reads it when it starts.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

__all__ = [
    "NAMES",
    "BadRequest",
    "Engine",
    "Input",
    "Pipeline",
    "PipelineOutput",
    "Scheduler",
    "UnfitEngine",
    "grid",
    "open_bundle",
    "open_engine",
    "scheduler",
    "to_uint8",
    "write_png",
]

_HOMES = {
    "NAMES": "schedulers",
    "BadRequest": "errors",
    "Engine": "engines",
    "Input": "pipeline",
    "Pipeline": "pipeline",
    "PipelineOutput": "output",
    "Scheduler": "stepping",
    "UnfitEngine": "errors",
    "grid": "images",
    "open_bundle": "bundles",
    "open_engine": "engines",
    "scheduler": "schedulers",
    "to_uint8": "images",
    "write_png": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
