"""OUT/model, or the dense model, in the runtime's loop: torch runs the denoiser and the VAE."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
from torch import nn

from diffc.bundle.contents import BundleContents
from diffc.data.latents import (
    VAE_AT_ONCE,
    decode_latents,
    encode_posterior,
    latent_factors,
    load_vae,
    scale_factor,
    vae_folder,
)
from diffc.errors import InputError, UnavailableError
from diffc.generate.engine import as_judged
from diffc.judged import find_loop
from diffc.models.autoencoders import full_config
from diffc.models.denoiser import Denoiser
from diffc.models.diffusion import served_settings
from diffc.models.families.base import sample_shape
from diffc.models.inputs import input_dtype
from diffc.models.source import Source, find_source
from diffc.models.texts.torch_calls import torch_prompts
from diffc.output import locked_recipe
from diffc.stage_inputs import RunShape
from diffc.stages.decoder import vae_kind
from diffc.stages.masked_decoder import decodes_masked
from diffc.stages.order import source_of
from diffc.stages.text import text_stage, write_texts
from diffc.torch_state import own_state, survive_forks
from diffc_export.events import drain
from diffc_runtime import Pipeline
from diffc_runtime.bundles import pipeline_of
from diffc_runtime.files import remove_with
from diffc_runtime.image_inputs import DecodeMasked, Encode, Posterior
from diffc_runtime.latent_scale import in_denoisers_scale
from diffc_runtime.prompt_plan import PLAN_FILE, TEXT_FOLDER
from diffc_runtime.prompts import PromptEncoder
from diffc_runtime.values import Array, Denoise

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BATCH = 8
Given = ParamSpec("Given")
Result = TypeVar("Result")


@own_state()
def open_torch(out: Path, side: str, device: str | None, dtype: str) -> Pipeline:
    """Load a model of OUT into torch.

    Args:
        out: The output folder.
        side: ``compressed`` for OUT/model, ``dense`` for what it was made from.
        device: ``cpu`` or ``cuda``; None: the GPU where there is one.
        dtype: ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        InputError: The model is not there, or cannot be used.
        UnavailableError: There is no such device here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("torch finds no NVIDIA GPU here", hint="the device cpu runs it")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    survive_forks()
    source = source_of(out) if side == "dense" else _compressed(out)
    denoiser = RunShape.of(locked_recipe(out)).open(source)
    nn.Module.to(denoiser.model, where, _DTYPES[dtype])  # diffusers' own ``to`` warns on every cast
    contents = _contents(out, denoiser, source, dtype, side)
    decode = None if vae_folder(source) is None else vae_decoder(source)
    opened = pipeline_of(
        contents.served_settings(),
        contents.info,
        _without_autocast(torch_call(denoiser, where)),
        decode,
    )
    if decode is not None and source.vae is not None:
        opened.encode = _without_autocast(vae_encoder(source))
        opened.latent_scale, opened.latent_shift = latent_factors(full_config(source.vae))
        scale = partial(in_denoisers_scale, factor=opened.latent_scale, shift=opened.latent_shift)
        opened.decode = _without_autocast(lambda latents: decode(scale(latents)))
        if decodes_masked(source):
            opened.decode_masked = _without_autocast(masked_decoder(source))
    opened.image_size = _image_size(denoiser, source) if decode is not None else opened.image_size
    opened.prompts = _prompts(out, source)
    if opened.prompts is not None:
        open_encoder = opened.prompts.open_encoder
        opened.prompts.open_encoder = lambda name: _without_autocast(open_encoder(name))
    opened.batches = [(1, _BATCH)]
    opened.runs_on = f"torch {dtype} on {where.type}"
    return as_judged(opened, out, contents)


def _without_autocast(call: Callable[Given, Result]) -> Callable[Given, Result]:
    """Return a call that computes in the model's own precision, whatever the caller has set."""

    def run(*given: Given.args, **named: Given.kwargs) -> Result:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return call(*given, **named)

    return run


def _prompts(out: Path, source: Source) -> PromptEncoder | None:
    """The text encoders in torch, of a run that stopped before its exports too."""
    text, recipe = out / "onnx" / TEXT_FOLDER, locked_recipe(out)
    if (text / PLAN_FILE).is_file():
        return torch_prompts(source, text)
    if text_stage(source, recipe) is None:
        return None
    text, prompts = Path(mkdtemp(prefix="diffc-text-")), None
    try:
        write_texts(source, RunShape.of(recipe), recipe.data.guidance, text)
        if (text / PLAN_FILE).is_file():
            prompts = torch_prompts(source, text)
            remove_with(prompts, text)  # tokenizers are read with the first prompt
    finally:
        if prompts is None:
            rmtree(text, ignore_errors=True)
    return prompts


def _image_size(denoiser: Denoiser, source: Source) -> tuple[int, int] | None:
    """(height, width) of the decoded images in pixels."""
    latent = sample_shape(denoiser.specs)
    factor = scale_factor(source)
    return (latent[1] * factor, latent[2] * factor) if len(latent) == 3 else None


def _compressed(out: Path) -> Source:
    folder = out / "model"
    if not (folder / "model_index.json").is_file() and not (folder / "pruning.json").is_file():
        raise InputError(
            f"{out} is unfinished: it holds no compressed model yet",
            hint="the command that began it goes on where it stopped",
        )
    return find_source(folder)


def _contents(
    out: Path, denoiser: Denoiser, source: Source, dtype: str, side: str
) -> BundleContents:
    """The facts that a bundle of this model would have."""
    specs = [
        {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "kind": spec.kind}
        for spec in denoiser.specs
    ]
    sizes = [list(size) for size in locked_recipe(out).export.sizes]
    specs = [{**one, "sizes": sizes} if one["kind"] == "sample" else one for one in specs]
    about = {
        "scheduler": served_settings(source.scheduler),
        "unconditional": denoiser.family.null_conditions(source.config),
    }
    info = {
        "target": "torch",
        "precision_found": dtype,
        "inputs": specs,
        "profiles": [],
        "source": about,
    }
    loop = find_loop(out, side, served_settings(source.scheduler))
    values = denoiser.family.condition_values(source.config)
    return BundleContents(out, info, loop=loop, values=values)


def torch_call(denoiser: Denoiser, device: torch.device) -> Denoise:
    """Return a call of the denoiser on numpy arrays (B, ...), in its own dtype."""
    dtype, opened_in = next(denoiser.model.parameters()).dtype, os.getpid()

    def call(inputs: dict[str, Array]) -> Array:
        if device.type == "cuda" and os.getpid() != opened_in:
            raise UnavailableError(
                "the GPU is of the process that opened the model, not of one forked off it",
                hint="open it in each process, which are then started with the method 'spawn'",
            )
        tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
        tensors = {k: v.to(input_dtype(k, v.dtype, dtype)) for k, v in tensors.items()}
        with torch.inference_mode():
            output: Array = denoiser.call(tensors).float().cpu().numpy()
        return output

    return call


def vae_decoder(source: Source) -> Callable[[Array], Array]:
    """Return a call from the denoiser's latents (N, ...) to images; the VAE is loaded once."""
    loaded: list[AutoencoderKL] = []

    def decode(latents: Array) -> Array:
        if not loaded:
            loaded.append(load_vae(source))
        images: Array = drain(decode_latents(source, torch.from_numpy(latents), loaded[0])).numpy()
        return images

    return decode


def vae_encoder(source: Source) -> Encode:
    """Return a call from images (N, C, H, W) to the posterior of their latents.

    The VAE is loaded once. One without a posterior gives a deviation of 0.
    """
    loaded: list[AutoencoderKL] = []

    def encode(images: Array) -> Posterior:
        if not loaded:
            loaded.append(load_vae(source))
        means, deviations = encode_posterior(torch.from_numpy(images), loaded[0])
        return means.numpy(), deviations.numpy()

    return encode


def masked_decoder(source: Source) -> DecodeMasked:
    """Return a call from the decoder's latents, images and masks (N, ...) to images.

    The VAE is loaded once.
    """
    loaded: list[AutoencoderKL] = []

    def decode(latents: Array, images: Array, masks: Array) -> Array:
        if not loaded:
            loaded.append(load_vae(source))
        named = {"sample": latents, "image": images, "mask": masks}
        parts = []
        for start in range(0, len(latents), VAE_AT_ONCE):
            rows = {
                name: torch.tensor(value[start : start + VAE_AT_ONCE]).to(loaded[0].device)
                for name, value in named.items()
            }
            with torch.no_grad():
                parts.append(vae_kind(source).decode_masked(loaded[0], rows).float().cpu())
        decoded: Array = torch.cat(parts).numpy()
        return decoded

    return decode
