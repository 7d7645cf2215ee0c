"""What making an image takes in this run, for the stages that time whole images.

The conditions of the calibration set, the guidance that the samples have, and the VAE's decoder:
what a user's job has, so that an image's time is an image's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffc.data.loops import run_loops
from diffc.data.tensors import NULL
from diffc.errors import InputError
from diffc.judged import usual_guidance
from diffc.measure.loop import LoopOptions
from diffc.models.components import VAE_NAMES
from diffc.output import DECODER, SIDES, engine_folder, reference_file
from diffc.recipe import Recipe
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN
from diffc_export.targets.base import Array
from diffc_export.targets.engine import NAME, EngineInfo, engine_digest, read_info
from diffc_runtime.loop import Loop

_IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageInputs:
    """One image's conditions and null conditions, name -> (...), and the scale of guidance.

    guidance: of a loop that says nothing; 1 where there are no null conditions.
    notes: what of it is not as the user's job has it.
    """

    conditions: Mapping[str, Array]
    unconditional: Mapping[str, Array]
    guidance: float
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """For a stage's key."""
        total = hashlib.sha256(f"{self.guidance} {self.notes}".encode())
        for values in (self.conditions, self.unconditional):
            for name in sorted(values):
                total.update(f"{name} {values[name].dtype} {values[name].shape}".encode())
                total.update(values[name].tobytes())
        return total.hexdigest()


def image_inputs(out: Path, recipe: Recipe, info: EngineInfo) -> ImageInputs:
    """The first row of the calibration set; of parity's inputs where that is not in OUT.

    Guidance is the samples': ``data.guidance`` where there are null conditions, else none.
    """
    kinds = {spec.name: spec.dtype for spec in info.inputs if spec.kind == "condition"}
    names = list(kinds)
    if not names:
        return ImageInputs({}, {}, 1.0)
    clean = out / STATE / CLEAN
    conditions, null = _first_row(clean) if clean.is_file() else ({}, {})
    notes: list[str] = []
    if not set(names) <= set(conditions):
        from diffc.measure.inputs import reference_inputs

        rows = reference_inputs(reference_file(out, "dense"))
        conditions = {name: rows[name][0] for name in names if name in rows}
        if not clean.is_file():
            notes.append(f"without guidance: {clean.name} is not in {out / STATE}")
    if missing := [name for name in names if name not in conditions]:
        notes.append(f"zeros for {', '.join(missing)}")
    conditions, null = (
        {name: np.asarray(given[name], kinds[name]) for name in names if name in given}
        for given in (conditions, null)
    )
    guidance = usual_guidance(out, recipe) if null else 1.0
    return ImageInputs(conditions, {**conditions, **null} if null else {}, guidance, tuple(notes))


def _first_row(clean: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """(conditions, null conditions) of the first sample; the other rows are not read."""
    from safetensors import safe_open

    conditions, null = dict[str, Array](), dict[str, Array]()
    with safe_open(clean, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            if name.startswith(NULL):
                null[name.removeprefix(NULL)] = file.get_tensor(name)
            elif name != "sample":
                conditions[name] = file.get_slice(name)[:1][0]
    return conditions, null


def decoder_engine(out: Path, name: str) -> Path | None:
    """The engine of the VAE's decoder for one target; None where there is none."""
    folder = engine_folder(out, name, DECODER)
    return folder if (folder / NAME).is_file() else None


def is_latent(out: Path, info: EngineInfo) -> bool:
    """Whether the denoiser's samples have to be decoded to be images."""
    if any((out / "model" / part / "config.json").is_file() for part in VAE_NAMES):
        return True
    sample = next(spec for spec in info.inputs if spec.kind == "sample")
    return sample.shape[0] not in _IMAGE_CHANNELS


def loop_options(out: Path, recipe: Recipe, name: str, side: str) -> LoopOptions:
    """Return the options with which a target's bench stage times a side's whole images.

    Args:
        out: The output folder.
        recipe: The options of the run.
        name: The target.
        side: ``dense`` or ``compressed``: each has its loop, and its scheduler's config.
    """
    info = read_info(engine_folder(out, name, side))
    inputs, decoder = image_inputs(out, recipe, info), decoder_engine(out, name)
    latent = is_latent(out, info)
    notes = list(inputs.notes)
    if latent and decoder is None:
        notes.append(f"without decoding: {name} has no engine of a decoder here")
    loop = run_loops(recipe, info.source.get("scheduler") or {}, inputs.guidance).of(side)
    settings, said, absent = _settings(info, decoder, loop)
    return LoopOptions(
        steps=loop.steps or 1,
        scheduler=loop.sampler if settings is None else settings["sampler"],
        batch=min(recipe.build.batch),  # a smaller batch than the engine's would be padded to it
        guidance=(loop.guidance or 1.0) if inputs.unconditional else 1.0,
        conditions=inputs.conditions,
        unconditional=inputs.unconditional,
        settings=settings,
        decoder=decoder,
        latent=latent,
        notes=(*notes, *said),
        absent=absent,
    )


def _settings(
    info: EngineInfo, decoder: Path | None, loop: Loop
) -> tuple[dict[str, Any] | None, list[str], str | None]:
    """(pipeline.json as a bundle of this engine would have it, its notes, why there is none)."""
    from diffc.bundle.contents import BundleContents

    served = BundleContents(Path(info.target), info.to_json(), (), decoder, loop)
    try:
        return served.served_settings(), served.notes(), None
    except InputError as error:
        return None, [], str(error)


@dataclass(frozen=True)
class ImageInput:
    """What making an image takes. The key holds what of it decides an image's time.

    Attributes:
        options: The compressed model's images.
        reference: The dense model's.
    """

    options: LoopOptions
    reference: LoopOptions

    def of(self, side: str) -> LoopOptions:
        """The options of one side."""
        return self.reference if side == "dense" else self.options

    def keyed(self) -> object:
        """Conditions, guidance, the loop, pipeline.json, and the decoder's engine."""
        return {side: _keyed(self.of(side)) for side in SIDES}


def _keyed(options: LoopOptions) -> object:
    inputs = ImageInputs(options.conditions, options.unconditional, options.guidance, options.notes)
    return {
        "inputs": inputs.digest,
        "steps": options.steps,
        "sampler": options.scheduler,
        "settings": options.settings,
        "decoder": None if options.decoder is None else engine_digest(options.decoder),
    }


def image_input(out: Path, recipe: Recipe, name: str) -> ImageInput:
    """Return how both sides make an image on one target, for the stages that time whole images.

    Args:
        out: The output folder.
        recipe: Every option.
        name: The target.
    """
    dense, compressed = (loop_options(out, recipe, name, side) for side in SIDES)
    return ImageInput(compressed, dense)
