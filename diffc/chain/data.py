"""The data stage: clean samples and their conditions, whatever they come from.

synthetic                        the dense model's own samples
images (folder, .npz, data set)  through the VAE once, for a latent model
a .safetensors                   the denoiser's own inputs (data/tensors.py)
prompts                          encoded once, beside the first two
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc.data.guidance import decide_guidance
from diffc.data.image_folders import (
    SOURCES,
    check_file,
    check_images,
    check_readable,
    images_digest,
    is_dataset,
)
from diffc.data.prompt_file import read_prompts
from diffc.data.tensors import has_samples, is_tensors
from diffc.errors import RequestError
from diffc.models.families import family, family_package
from diffc.models.source import Source, check_safetensors
from diffc.recipe import Recipe
from diffc.stages import STATE, Room, Stage
from diffc_export.events import Progress, Work
from diffc_runtime.files import file_digest

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.data.clean import CleanSet
    from diffc.data.prompts import EncodedPrompts
    from diffc_export.specs import TensorSpec

CLEAN = "clean.safetensors"


def data_stage(source: Source, recipe: Recipe) -> Stage:
    """Clean samples and conditions."""
    options = recipe.data
    synthetic = is_drawn(options.source)
    given = options.source != "synthetic"
    guidance = decide_guidance(source, options.guidance)
    inputs: dict[str, Any] = {
        **pipeline_facts(source),
        "guidance": [guidance.scale, guidance.has_null],
        "model": source.digest if synthetic else _inputs_of(source),
        "options": options.model_dump(mode="json", exclude={"source", "prompts"}),
        "content": _data_digest(Path(options.source)) if given else "synthetic",
        "resolution": recipe.export.size,
        "seed": recipe.seed,
    }
    if options.prompts is not None:
        inputs["prompts"] = content_digest(Path(options.prompts))
        inputs["encoders"] = _digests(source, "text_encoder")
    if not synthetic and source.vae is not None:
        inputs["vae"] = source.vae.digest
    uses_model = synthetic or options.prompts is not None or not _is_pixels(source)
    packages = model_packages(source) if uses_model else ()

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.data.inputs import denoiser_specs

        specs = denoiser_specs(source, recipe)
        conditions = yield from _conditions(source, recipe, specs)
        make = _synthesized if synthetic else _read
        clean, facts = yield from make(source, recipe, specs, conditions)
        clean.save(room.out / CLEAN)
        notes = [*facts.pop("notes", ()), *conditions.notes]
        if guidance.has_null:
            notes += _guidance_notes(clean, specs)
        about = {"origin": clean.origin, "null": sorted(clean.null), "guidance": guidance.scale,
                 "notes": notes}  # fmt: skip
        return {"images": len(clean), **about, **facts}

    places = {CLEAN: f"{STATE}/{CLEAN}"}
    return Stage("data", 8, inputs, run, places, packages, collective=synthetic)


def model_packages(source: Source) -> tuple[str, ...]:
    """The distributions whose versions decide what the denoiser computes, for a stage's key."""
    package = family_package(source.class_name)
    return ("torch", "diffusers", *([package] if package else []))


def is_drawn(data: str) -> bool:
    """Whether clean samples are drawn from the dense model: none were given."""
    return data == "synthetic" or (is_tensors(data) and not has_samples(Path(data)))


def _conditions(source: Source, recipe: Recipe, specs: list[TensorSpec]) -> Work[EncodedPrompts]:
    """What the user gives to condition on: prompts, or a file of tensors without samples."""
    from diffc.data.prompts import EncodedPrompts, encode_prompts
    from diffc.data.tensors import read_null, read_tensors

    options = recipe.data
    if options.prompts is not None:
        prompts = read_prompts(Path(options.prompts))
        return (yield from encode_prompts(source, specs, prompts, guidance=options.guidance))
    if not is_tensors(options.source):
        return EncodedPrompts({}, _null_conditions(source))
    path = Path(options.source)
    rows = read_tensors(path, specs) if is_drawn(options.source) else {}
    return EncodedPrompts(rows, {**_null_conditions(source), **read_null(path, specs)})


def _guidance_notes(clean: CleanSet, specs: list[TensorSpec]) -> list[str]:
    """What to say of a text-conditioned model whose guidance cannot be distilled."""
    names = {spec.name for spec in specs}
    if "encoder_hidden_states" not in names or clean.null:
        return []
    return [
        "no null conditions were given: the difference that classifier-free guidance takes is not "
        "distilled (--prompts has them; a .safetensors may hold null.NAME)"
    ]


def _null_conditions(source: Source) -> dict[str, Tensor]:
    """What the pipeline guides with where no prompt has to be encoded, such as DiT's null class."""
    import torch

    values = family(source.class_name).null_conditions(source.config)
    return {name: torch.tensor(value) for name, value in values.items()}


def _synthesized(
    source: Source, recipe: Recipe, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, dict[str, Any]]]:
    from diffc.data.precision import best_device
    from diffc.data.synthetic import Conditioning, synthesize
    from diffc.models.denoiser import open_denoiser

    options = recipe.data
    denoiser = open_denoiser(source, specs)
    denoiser.model.to(best_device())
    guidance = decide_guidance(source, options.guidance).scale
    clean = yield from synthesize(
        denoiser,
        options.images,
        Conditioning(given.rows, given.null, guidance),
        steps=options.steps,
        seed=recipe.seed,
        batch=options.batch,
    )
    return clean, {"conditions": sorted(given.rows)}


def _read(
    source: Source, recipe: Recipe, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, dict[str, Any]]]:
    from diffc.data.tensors import read_clean_set

    options = recipe.data
    yield Progress(0, 1, f"reading {options.source}")
    if is_tensors(options.source):
        clean = read_clean_set(Path(options.source), specs, limit=options.images, seed=recipe.seed)
        return replace(clean, null=given.null), {"conditions": sorted(clean.conditions)}
    return (yield from _read_images(source, recipe, specs, given))


def _read_images(
    source: Source, recipe: Recipe, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, dict[str, Any]]]:
    from diffc.data.clean import CleanSet
    from diffc.data.images import read_images
    from diffc.data.inputs import LABELS
    from diffc.data.latents import encode_images, pixel_shape, vae_folder
    from diffc.data.synthetic import condition_rows

    options = recipe.data
    shape = next(spec.shape for spec in specs if spec.kind == "sample")
    takes_labels = any(spec.name == LABELS for spec in specs)
    clean, counts = read_images(
        Path(options.source), pixel_shape(source, shape), limit=options.images,
        seed=recipe.seed, fit=options.fit, classes=_class_count(source) if takes_labels else None,
    )  # fmt: skip
    sample = clean.sample
    if vae_folder(source) is not None:
        sample = yield from encode_images(source, sample, shape)
    pool = {**given.rows, **clean.conditions}
    rows = condition_rows(range(len(clean)), specs, pool, None, recipe.seed)
    notes = [*counts.notes, *([str(counts)] if counts.skipped else [])]
    facts = {"counts": str(counts), "conditions": sorted(given.rows), "notes": notes}
    return CleanSet(sample, rows, clean.origin, given.null), facts


def _is_pixels(source: Source) -> bool:
    return not any((source.folder / name / "config.json").exists() for name in ("vae", "vqvae"))


def pipeline_facts(source: Source) -> dict[str, Any]:
    """What of the pipeline decides its inputs beside the denoiser, for a stage's key."""
    return {"index": dict(source.index), "tokenizers": _digests(source, "tokenizer")}


def _digests(source: Source, kind: str) -> dict[str, str]:
    return {part.name: part.digest for part in source.components if part.name.startswith(kind)}


def _inputs_of(source: Source) -> dict[str, Any]:
    """What the denoiser's inputs are made by: its config, whatever its weights."""
    return {"class_name": source.class_name, **source.config}


def _data_digest(path: Path) -> str:
    """sha256 of what is read: of a folder of images no leftovers and no other files."""
    is_images = path.is_dir() and not is_dataset(path)
    return images_digest(path) if is_images else content_digest(path)


def content_digest(path: Path) -> str:
    """sha256 of a file, or of every file's name and content in a folder."""
    if path.is_file():
        return file_digest(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode() + file_digest(file).encode())
    return total.hexdigest()


def check_data(source: Source, recipe: Recipe) -> None:
    """Refuse data, prompts and reference images that cannot be read; from names and headers alone.

    Raises:
        InputError, RequestError, UnavailableError: naming the flag and what is there.
    """
    options, quality = recipe.data, recipe.quality
    if options.source != "synthetic":
        _check_source(source, Path(options.source))
    if options.prompts is not None:
        if is_tensors(options.source):
            raise RequestError(
                f"{options.source} holds the model's conditions, and prompts were given as well",
                hint="leave one of --data and --prompts out",
            )
        read_prompts(Path(options.prompts))
    if quality.reference is None:
        return
    check_images(Path(quality.reference), "--reference")
    if quality.features != "inception":
        check_file(Path(quality.features), "--features", "an ONNX file, or inception")


def check_values(source: Source, recipe: Recipe) -> None:
    """Refuse prompts that the pipeline cannot encode, and a condition that nothing gives.

    Raises:
        InputError, RequestError: naming the pipeline's class or the condition.
    """
    from diffc.data.conditions import check_condition_values
    from diffc.data.inputs import denoiser_specs
    from diffc.data.prompts import text_conditions

    if is_tensors(recipe.data.source):
        return  # a file that holds all of them
    text = None if recipe.data.prompts is None else tuple(text_conditions(source))
    check_condition_values(denoiser_specs(source, recipe), text)


def _check_source(source: Source, path: Path) -> None:
    if not is_tensors(path):
        check_images(path, "--data", _class_count(source))
        return
    check_readable(path, "--data", f"{SOURCES}, a .safetensors, or synthetic")
    check_safetensors(path)


def _class_count(source: Source) -> int | None:
    return family(source.class_name).class_count(source.config)
