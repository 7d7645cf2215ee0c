"""Opens a bundle's folder as a Pipeline.

    pipeline.json   the scheduler's config, and what a request may leave out: ``defaults`` has the
                    steps and the guidance of the pictures that diffc's report judged
    engine/         the denoiser's engine folder; beside it engine-NAME/, for other GPUs
    decoder/        the VAE decoder's, for a latent model; beside it encoder/, the VAE encoder's
    loras/          LoRAs that a call may name, of the engine in engine/
    text/           how prompts become conditions, and the tokenizers; beside it a folder for each
                    text encoder

A model repository for a server holds the same three beside its model.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np

from .engine_folder import ENCODER_FOLDER, LORA_FOLDER, MASKED_DECODER_FOLDER
from .engines import Engine, batches, open_engine, read_info, specs
from .errors import BadRequest, UnfitEngine, value_words
from .files import no_place
from .fit import misfit
from .image_inputs import DecodeMasked, Encode, Posterior, split_posterior
from .json_types import JsonObject
from .keywords import checked_keywords
from .loaders import find_loader
from .loras import EngineLoras
from .packing import unpack_latents
from .pipeline import Pipeline, PipelineDefaults, smallest_batch
from .prompt_plan import TEXT_FOLDER
from .prompts import open_prompts
from .values import Array, Denoise

FORMAT = 1


def read_settings(folder: Path) -> JsonObject:
    """Return the content of pipeline.json.

    Raises:
        UnfitEngine: The file is missing or damaged, cannot be read, or has a format that this
            runtime does not know.
    """
    path = folder / "pipeline.json"
    try:
        settings: JsonObject = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UnfitEngine(f"{folder} is not a bundle: it has no pipeline.json") from None
    except OSError as error:
        raise UnfitEngine(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnfitEngine(f"{path} is damaged: it is not JSON") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise UnfitEngine(f"{path} is not of format {FORMAT}, the one that this runtime reads")
    if not isinstance(settings.get("scheduler"), dict):
        raise UnfitEngine(f"{path} is damaged: it has no scheduler's config")
    return settings


@checked_keywords()
def open_bundle(folder: str | Path, threads: int | None = None) -> Pipeline:
    """Load a bundle.

    Args:
        folder: The bundle's folder; ``~`` is the home folder.
        threads: For engines on a processor; by default all cores.

    Raises:
        UnfitEngine: No engine of the bundle fits this machine, or a file is missing or altered.
        BadRequest: An argument is wrong.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise BadRequest(f"a bundle's folder is a path, not {value_words(folder)}")
    reason = no_place(folder)
    if reason is not None:
        raise BadRequest(f"folder: {reason}")
    try:
        folder = Path(folder).expanduser().absolute()
    except RuntimeError:
        words = f"'{folder}' begins with a home folder, and nothing here says where that is"
        raise BadRequest(f"folder: {words}: write the path in full") from None
    settings = read_settings(folder)
    place = fitting_engine(folder, settings)
    engine = open_engine(place, threads)
    decoder = open_engine(folder / "decoder", threads) if settings.get("latent") else None
    decode = None if decoder is None else decoder_of(decoder)
    opened = pipeline_of(settings, engine.info, engine.run, decode)
    if decoder is not None:
        opened.image_size = image_size(decoder.info)
        opened.encode = vae_encoder_of(folder / ENCODER_FOLDER, threads)
        opened.decode_masked = masked_decoder_of(folder / MASKED_DECODER_FOLDER, threads)
    opened.prompts = open_prompts(folder / TEXT_FOLDER, text_engines(folder), threads)
    opened.loras = EngineLoras(place, folder / LORA_FOLDER, threads)
    return opened


def text_engines(folder: Path) -> dict[str, Path]:
    """Return the engine folders of a folder's text encoders, by their names in the pipeline."""
    there = sorted(path.parent for path in folder.glob("text_encoder*/engine.json"))
    return {path.name: path for path in there}


def image_size(decoder: JsonObject) -> tuple[int, int] | None:
    """Return (height, width) of a decoder's images in pixels, from its engine.json."""
    shape = decoder["outputs"][0]["shape"]
    return (int(shape[-2]), int(shape[-1])) if len(shape) == 3 else None


def pipeline_of(
    settings: JsonObject,
    info: JsonObject,
    denoise: Denoise,
    decode: Callable[[Array], Array] | None = None,
) -> Pipeline:
    """Return the pipeline that pipeline.json describes, around any call that runs the denoiser.

    Args:
        settings: The content of pipeline.json.
        info: The content of engine.json.
        denoise: Runs the denoiser, in this process or on a server.
        decode: Latents, scaled for the decoder -> samples.
    """
    values = settings.get("values") or {}
    inputs = tuple(replace(spec, values=values.get(spec.name)) for spec in specs(info))
    latent, usual = settings.get("latent") or {}, settings.get("defaults") or {}
    return Pipeline(
        denoise,
        settings["scheduler"],
        next(spec.shape for spec in inputs if spec.kind == "sample"),
        inputs=inputs,
        batches=batches(info),
        decode=decode,
        latent_scale=latent.get("scale", 1.0),
        latent_shift=latent.get("shift", 0.0),
        unconditional=settings.get("unconditional"),
        scheduler=settings.get("sampler"),
        defaults=PipelineDefaults(usual.get("steps", 50), usual.get("guidance", 1.0)),
        runs_on=f"{info['target']} {info['precision_found']}",
    )


def fitting_engine(folder: Path, settings: JsonObject | None = None) -> Path:
    """Return the first engine folder that fits this machine, by the order of their names.

    Args:
        folder: A bundle's, or a server's model folder, which holds a folder for each engine.
        settings: The content of pipeline.json; None for a server's denoiser, which has none.

    Raises:
        UnfitEngine: None fits; the message gives the reason for each.
    """
    reasons = misfits(folder, settings)
    for engine, reason in reasons.items():
        if reason is None:
            return engine
    message = "; ".join(f"{engine.name}: {reason}" for engine, reason in reasons.items())
    raise UnfitEngine(message or f"{folder} holds no engine folder")


def serves_any_batch(folder: Path) -> bool:
    """Return True if the engine of a bundle's folder takes larger batches than it names."""
    target = read_info(fitting_engine(folder, read_settings(folder)))["target"]
    return bool(find_loader(target).ANY_BATCH)


def misfits(folder: Path, settings: JsonObject | None = None) -> dict[Path, str | None]:
    """Return each engine folder with the reason why it cannot be opened here; None if it can.

    It does not fit this machine, or a file of the engine or of the decoder is missing.

    Args:
        settings: The content of pipeline.json, which says whether a decoder belongs to the
            folder; None for a server's denoiser, which has neither.
    """
    beside = [folder / "decoder"] if settings and settings.get("latent") else []
    beside += text_engines(folder).values() if settings else []
    for name in (ENCODER_FOLDER, MASKED_DECODER_FOLDER):
        beside += [folder / name] if settings and (folder / name).is_dir() else []
    return {
        engine: misfit(read_info(engine)) or missing_file([engine, *beside])
        for engine in sorted(folder.glob("engine*"))
        if engine.is_dir()
    }


def missing_file(engines: Sequence[Path]) -> str | None:
    """Return a message that names the first missing file of these engine folders, or None."""
    paths = (engine / name for engine in engines for name in read_info(engine)["files"])
    missing = next((path for path in paths if not path.is_file()), None)
    return None if missing is None else f"{missing} is missing"


def read_bundle(folder: Path) -> tuple[JsonObject, JsonObject]:
    """Return the content of pipeline.json and engine.json; no engine is loaded.

    Raises:
        UnfitEngine: A file is missing or damaged.
    """
    return read_settings(folder), read_info(folder / "engine")


def decoder_of(engine: Engine) -> Callable[[Array], Array]:
    """Return a function that decodes latents (N, ...) to samples (N, ...), for any N.

    It splits N into batches that the decoder's engine serves.
    """
    (latent,) = engine.inputs
    return batched_decoder(engine.run, latent.name, latent.dtype, engine.batches, latent.shape)


def vae_encoder_of(folder: Path, threads: int | None = None) -> Encode | None:
    """Return a function that encodes images (N, ...), for any N; None without an engine.

    The engine is opened by the first image: most calls have none.

    Args:
        folder: The engine's folder.
        threads: For an engine on a processor; by default all cores.
    """
    opened = _opened_by_first_call(folder, threads)
    if opened is None:
        return None
    run = cache(lambda: decoder_of(opened()))
    has_posterior = read_info(folder)["source"].get("posterior", True)

    def encode(images: Array) -> Posterior:
        given = run()(images)
        return split_posterior(given) if has_posterior else (given, np.zeros_like(given))

    return encode


def masked_decoder_of(folder: Path, threads: int | None = None) -> DecodeMasked | None:
    """Return a function that decodes latents with images and masks; None without an engine.

    The engine is opened by the first mask: most calls have none.

    Args:
        folder: The engine's folder.
        threads: For an engine on a processor; by default all cores.
    """
    opened = _opened_by_first_call(folder, threads)
    if opened is None:
        return None

    def decode(latents: Array, images: Array, masks: Array) -> Array:
        engine = opened()
        rows = {
            spec.name: value.astype(spec.dtype)
            for spec, value in zip(engine.inputs, (latents, images, masks), strict=True)
        }
        return _run_in_batches(engine.run, rows, engine.batches)

    return decode


def _opened_by_first_call(folder: Path, threads: int | None) -> Callable[[], Engine] | None:
    """Return a function that gives the engine and opens it once; None without an engine."""
    if not (folder / "engine.json").is_file():
        return None
    opening, engines = Lock(), list[Engine]()

    def engine() -> Engine:
        with opening:  # of two first calls in two threads one waits for the other's engine
            if not engines:
                engines.append(open_engine(folder, threads))
        return engines[0]

    return engine


def batched_decoder(
    run: Denoise,
    name: str,
    dtype: str,
    batches: Sequence[Sequence[int]],
    shape: Sequence[int] | None = None,
) -> Callable[[Array], Array]:
    """Return a call from latents (N, ...) to samples (N, ...) around a call with fixed batches.

    Latents are split to the largest batch, and each part is padded to the smallest that serves it.

    Args:
        run: Runs the decoder: inputs by name -> samples (B, ...).
        name: The decoder's input.
        dtype: The input's numpy dtype.
        batches: (smallest, largest) for each range of batch sizes; empty for batch 1 alone.
        shape: (C, H, W) that the decoder takes; tokens of packed latents are unpacked to it.
    """

    def decode(x: Array) -> Array:
        if x.ndim == 3 and shape is not None and len(shape) == 3:
            x = unpack_latents(x, shape)
        return _run_in_batches(run, {name: x.astype(dtype)}, batches)

    return decode


def _run_in_batches(
    run: Denoise, rows: dict[str, Array], batches: Sequence[Sequence[int]]
) -> Array:
    """Run inputs (N, ...) in batches that the call serves, and return its outputs (N, ...)."""
    served = [(low, high) for low, high in batches] or [(1, 1)]
    most, count = max(high for _, high in served), len(next(iter(rows.values())))
    outputs = []
    for start in range(0, count, most):
        part = {name: value[start : start + most] for name, value in rows.items()}
        size = smallest_batch(served, min(most, count - start))
        outputs.append(_run_padded(run, part, size))
    return np.concatenate(outputs).astype(np.float32)


def _run_padded(run: Denoise, parts: dict[str, Array], size: int) -> Array:
    """Run ``parts``, each padded with zeros to ``size`` rows, and return their own rows."""
    count, padded = 0, {}
    for name, part in parts.items():
        count = len(part)
        padded[name] = np.zeros((size, *part.shape[1:]), part.dtype)
        padded[name][:count] = part
    return run(padded)[:count]
