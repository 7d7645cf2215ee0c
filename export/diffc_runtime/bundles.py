"""A bundle's folder -> a Pipeline.

    pipeline.json   the scheduler's config, and what a request may leave out
    engine/         the denoiser's engine folder; beside it engine-NAME/, for other GPUs
    decoder/        the VAE decoder's, for a latent model

A model repository for a server holds the same three beside its model.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Engine, batches, open_engine, read_info, specs
from .errors import UnfitEngine
from .fit import misfit
from .pipeline import Array, Denoise, Pipeline, smallest_batch

FORMAT = 1


def read_settings(folder: Path) -> dict[str, Any]:
    """pipeline.json's content. Raises UnfitEngine when there is none that this runtime reads."""
    path = folder / "pipeline.json"
    try:
        settings = json.loads(path.read_text())
    except OSError:
        raise UnfitEngine(f"{folder} is not a bundle: it has no pipeline.json") from None
    except ValueError:
        raise UnfitEngine(f"{path} is damaged: it is not JSON") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise UnfitEngine(f"{path} is not of format {FORMAT}, the one that this runtime reads")
    return settings


def open_bundle(folder: Path, threads: int | None = None) -> Pipeline:
    """Load the bundle in ``folder``. Raises UnfitEngine when it does not fit this machine."""
    settings = read_settings(folder)
    engine = open_engine(fitting(folder), threads)
    return pipeline_of(settings, engine.info, engine.run, _decoder(folder, settings, threads))


def pipeline_of(
    settings: Mapping[str, Any],
    info: Mapping[str, Any],
    denoise: Denoise,
    decode: Callable[[Array], Array] | None = None,
) -> Pipeline:
    """The pipeline that pipeline.json describes, around any call that runs the denoiser."""
    inputs = specs(info)
    latent = settings.get("latent") or {}
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
    )


def fitting(folder: Path) -> Path:
    """The first engine folder that fits this machine. Raises UnfitEngine saying why none does."""
    reasons = misfits(folder)
    for engine, reason in reasons.items():
        if reason is None:
            return engine
    said = "; ".join(f"{engine.name}: {reason}" for engine, reason in reasons.items())
    raise UnfitEngine(said or f"{folder} holds no engine folder")


def misfits(folder: Path) -> dict[Path, str | None]:
    """Each engine folder, and why it cannot be opened here; None where it can.

    It does not fit this machine, or a file of it or of the decoder is missing.
    """
    decoder = [folder / "decoder"] if read_settings(folder).get("latent") else []
    return {
        engine: misfit(read_info(engine)) or missing_file([engine, *decoder])
        for engine in sorted(folder.glob("engine*"))
    }


def missing_file(engines: Sequence[Path]) -> str | None:
    """Which file of these engine folders is missing, in words; None where all are there."""
    paths = (engine / name for engine in engines for name in read_info(engine)["files"])
    missing = next((path for path in paths if not path.is_file()), None)
    return None if missing is None else f"{missing} is missing"


def read_bundle(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """pipeline.json's and the engine's content, with nothing loaded. Raises UnfitEngine."""
    return read_settings(folder), read_info(folder / "engine")


def _decoder(
    folder: Path, settings: Mapping[str, Any], threads: int | None
) -> Callable[[Array], Array] | None:
    if not settings.get("latent"):
        return None
    return decode_with(open_engine(folder / "decoder", threads))


def decode_with(engine: Engine) -> Callable[[Array], Array]:
    """Latents of any batch -> samples, in batches that the decoder serves."""
    (latent,) = engine.inputs
    return decoding(engine.run, latent.name, latent.dtype, engine.batches)


def decoding(
    run: Denoise, name: str, dtype: str, batches: Sequence[Sequence[int]]
) -> Callable[[Array], Array]:
    """``decode_with`` around any call of the decoder: input ``name`` (B, ...) -> samples (B, ...).

    Latents are split to the largest batch, and each part is padded to the smallest that serves it.
    """
    served = [(low, high) for low, high in batches] or [(1, 1)]
    most = max(high for _, high in served)

    def decode(x: Array) -> Array:
        parts = [x[i : i + most].astype(dtype) for i in range(0, len(x), most)]
        made = [_padded(run, name, part, smallest_batch(served, len(part))) for part in parts]
        return np.concatenate(made).astype(np.float32)

    return decode


def _padded(run: Denoise, name: str, part: Array, size: int) -> Array:
    """Run ``size`` rows, and give back as many as came."""
    rows = np.zeros((size, *part.shape[1:]), part.dtype)
    rows[: len(part)] = part
    return run({name: rows})[: len(part)]
