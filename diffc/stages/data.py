"""The data stage: clean samples and their conditions, whatever they come from.

synthetic                        the dense model's own samples
images (folder, .npz, data set)  through the VAE once, for a latent model
a .safetensors                   the denoiser's own inputs (data/tensors.py)
prompts                          encoded once, beside the first two
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from diffc.launch import process_rank
from diffc.models.components import VAE_NAMES
from diffc.models.families import family, family_package
from diffc.models.source import Source, check_safetensors
from diffc.recipe import DataSection, Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, ModelInput, RunShape, SectionInput, content_digest
from diffc.stage_outcomes import DataOutcome
from diffc.stage_records import STATE
from diffc_export.events import Progress, Work

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.data.clean import CleanSet
    from diffc.data.prompts import EncodedPrompts
    from diffc.data.states import DrawnStates
    from diffc_export.specs import TensorSpec

CLEAN = "clean.safetensors"
DRAWN_STATES = "drawn-states.safetensors"


@dataclass(frozen=True)
class DataInputs:
    """What clean samples follow from.

    Attributes:
        model: The denoiser where it draws the samples, or else its config.
        pipeline: What decides the denoiser's inputs beside it: the index and the tokenizers.
        options: The recipe's section; its files are the next two fields.
        content: The samples or conditions that the user gave; None where there are none.
        prompts: The prompts, and the encoders that read them; None without prompts.
        vae: The VAE that encodes images; None where nothing is encoded.
        guidance: Of classifier-free guidance: the scale, and whether null conditions are made.
        shape: What the denoiser's inputs are like.
        keeps_states: Whether the states that drawn samples go through are kept, for trajectories.
        seed: Of everything random.
    """

    model: ModelInput
    pipeline: ModelInput
    options: SectionInput[DataSection]
    content: FileInput | None
    prompts: FileInput | None
    vae: ModelInput | None
    guidance: tuple[float, bool]
    shape: RunShape
    keeps_states: bool
    seed: int

    @property
    def draws(self) -> bool:
        """Whether the dense model draws the samples: none were given."""
        return self.content is None or is_drawn(str(self.content.path))


def data_stage(source: Source, recipe: Recipe) -> Stage[DataInputs, DataOutcome]:
    """Clean samples and conditions."""
    options = recipe.data
    draws, guidance = is_drawn(options.source), decide_guidance(source, options.guidance)
    content = Path(options.source)
    inputs = DataInputs(
        model=ModelInput.denoiser(source) if draws else ModelInput(source, _config_of(source)),
        pipeline=ModelInput(source, pipeline_facts(source)),
        options=SectionInput(options, without=("source", "prompts", "batch")),
        content=None if is_synthetic(options) else FileInput(content, data_digest(content)),
        prompts=_prompts(source, options),
        vae=_vae(source, draws),
        guidance=(guidance.scale, guidance.has_null),
        shape=RunShape.of(recipe),
        keeps_states=keeps_states(recipe),
        seed=recipe.seed,
    )
    uses_model = draws or options.prompts is not None or not _is_pixels(source)
    packages = model_packages(source) if uses_model else ()
    files = (CLEAN, DRAWN_STATES) if inputs.keeps_states else (CLEAN,)
    places = {name: f"{STATE}/{name}" for name in files}
    return Stage("data", 12, inputs, make_data, DataOutcome, places, packages, collective=draws)


def _vae(source: Source, draws: bool) -> ModelInput | None:
    """The VAE, where images are encoded: the user's, or drawn ones that are a condition."""
    conditioned = family(source.class_name).condition_channels(source.config)
    uses_it = source.vae is not None and (not draws or conditioned > 0)
    return ModelInput.vae(source) if uses_it else None


def _prompts(source: Source, options: DataSection) -> FileInput | None:
    """The file of prompts, keyed by its content and the encoders."""
    if options.prompts is None:
        return None
    path = Path(options.prompts)
    return FileInput(path, [content_digest(path), digests_of(source, "text_encoder")])


def keeps_states(recipe: Recipe) -> bool:
    """Whether the trajectories of a run may go the way that its samples go.

    The loops are left out of it, so that runs for several loops share their samples.
    """
    options, distill = recipe.data, recipe.distill
    same_steps = options.steps == distill.loop.teacher_steps
    return distill.aim == "loop" and same_steps and is_drawn(options.source)


def is_synthetic(options: DataSection) -> bool:
    """Whether no data were given."""
    return options.source == "synthetic"


def make_data(inputs: DataInputs, folder: StageFolder) -> Work[DataOutcome]:
    """Write clean.safetensors: samples, conditions and null conditions."""
    specs = inputs.shape.specs(inputs.model.source)
    conditions = yield from _conditions(inputs, specs)
    if inputs.draws:
        clean, states, outcome = yield from _draw(inputs, specs, conditions)
        if states is not None and process_rank() == 0:
            states.save(folder.out / DRAWN_STATES)
    else:
        clean, outcome = yield from _read(inputs, specs, conditions)
    if process_rank() == 0:  # what the others write is not kept
        clean.save(folder.out / CLEAN)
    notes = [*outcome.notes, *conditions.notes]
    if inputs.guidance[1]:
        notes += _guidance_notes(clean, specs)
    return outcome.model_copy(
        update={
            "images": len(clean),
            "origin": clean.origin,
            "null": sorted(clean.null),
            "guidance": inputs.guidance[0],
            "notes": notes,
        }
    )


def model_packages(source: Source) -> tuple[str, ...]:
    """The distributions whose versions decide what the denoiser computes, for a stage's key."""
    package = family_package(source.class_name)
    return ("torch", "diffusers", *([package] if package else []))


def is_drawn(data: str) -> bool:
    """Whether clean samples are drawn from the dense model: none were given."""
    return data == "synthetic" or (is_tensors(data) and not has_samples(Path(data)))


def _conditions(inputs: DataInputs, specs: list[TensorSpec]) -> Work[EncodedPrompts]:
    """What the user gives to condition on: prompts, or a file of tensors without samples."""
    from diffc.data.prompts import EncodedPrompts, encode_prompts
    from diffc.data.tensors import read_null, read_tensors

    source, options = inputs.model.source, inputs.options.section
    if inputs.prompts is not None:
        prompts = read_prompts(inputs.prompts.path)
        return (yield from encode_prompts(source, specs, prompts, guidance=options.guidance))
    if inputs.content is None or not is_tensors(inputs.content.path):
        return EncodedPrompts({}, _null_conditions(source))
    path = inputs.content.path
    rows = read_tensors(path, specs) if inputs.draws else {}
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


def _draw(
    inputs: DataInputs, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, DrawnStates | None, DataOutcome]]:
    """Samples of the dense model, and what they went through where that is kept."""
    from diffc.data.image_conditions import image_conditions, open_conditions, takes_image
    from diffc.data.latents import decode_latents, pixel_shape
    from diffc.data.precision import best_device, fast_dtype
    from diffc.data.synthetic import Conditioning, synthesize, synthesize_with_states
    from diffc.models.denoiser import open_denoiser

    options = inputs.options.section
    source = inputs.model.source
    if inputs.shape.wants_sharding((source, WEIGHT_BYTES)):
        denoiser = inputs.shape.open_sharded(source, fast_dtype(best_device()))
    else:
        denoiser = open_denoiser(source, specs)
        denoiser.model.to(best_device())
    rows, of_images = dict(given.rows), takes_image(specs)
    if of_images:
        shape = pixel_shape(source, denoiser.sample_shape)
        rows |= yield from open_conditions(source, specs, shape)
    conditions = Conditioning(rows, given.null, inputs.guidance[0])
    how = {"steps": options.steps, "seed": inputs.seed, "batch": options.batch}
    states = None
    if inputs.keeps_states and not of_images:  # conditions of images change after the samples
        clean, states = yield from synthesize_with_states(
            denoiser, options.images, conditions, **how
        )
    else:
        clean = yield from synthesize(denoiser, options.images, conditions, **how)
    names = set(given.rows)
    if of_images:
        pictures = (yield from decode_latents(source, clean.sample)).clamp(-1, 1)
        more = yield from image_conditions(source, specs, pictures, inputs.seed)
        clean = replace(clean, conditions={**clean.conditions, **more})
        names |= set(more)
    return clean, states, DataOutcome(conditions=sorted(names))


def _read(
    inputs: DataInputs, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, DataOutcome]]:
    """Samples that the user gave."""
    from diffc.data.tensors import read_clean_set

    assert inputs.content is not None
    path = inputs.content.path
    yield Progress(0, 1, f"reading {path}")
    if is_tensors(path):
        clean = read_clean_set(path, specs, limit=inputs.options.section.images, seed=inputs.seed)
        return replace(clean, null=given.null), DataOutcome(conditions=sorted(clean.conditions))
    return (yield from _read_images(inputs, path, specs, given))


def _read_images(
    inputs: DataInputs, path: Path, specs: list[TensorSpec], given: EncodedPrompts
) -> Work[tuple[CleanSet, DataOutcome]]:
    from diffc.data.clean import CleanSet
    from diffc.data.image_conditions import image_conditions
    from diffc.data.images import read_images
    from diffc.data.inputs import LABELS
    from diffc.data.latents import encode_images, pixel_shape, vae_folder
    from diffc.data.synthetic import condition_rows

    source, options = inputs.model.source, inputs.options.section
    shape = next(spec.shape for spec in specs if spec.kind == "sample")
    takes_labels = any(spec.name == LABELS for spec in specs)
    clean, counts = read_images(
        path,
        pixel_shape(source, shape),
        limit=options.images,
        seed=inputs.seed,
        fit=options.fit,
        classes=_class_count(source) if takes_labels else None,
    )
    sample = clean.sample
    of_images = yield from image_conditions(source, specs, sample, inputs.seed)
    if vae_folder(source) is not None:
        sample = yield from encode_images(source, sample, shape)
    pool = {**given.rows, **clean.conditions, **of_images}
    rows = condition_rows(range(len(clean)), specs, pool, None, inputs.seed)
    notes = [*counts.notes, *([str(counts)] if counts.skipped else [])]
    names = sorted({**given.rows, **of_images})
    outcome = DataOutcome(counts=str(counts), conditions=names, notes=notes)
    return CleanSet(sample, rows, clean.origin, given.null), outcome


def _is_pixels(source: Source) -> bool:
    return not any((source.folder / name / "config.json").exists() for name in VAE_NAMES)


def pipeline_facts(source: Source) -> dict[str, Any]:
    """What of the pipeline decides its inputs beside the denoiser, for a stage's key."""
    return {"index": dict(source.index), "tokenizers": digests_of(source, "tokenizer")}


def digests_of(source: Source, kind: str) -> dict[str, str]:
    return {part.name: part.digest for part in source.components if part.name.startswith(kind)}


def _config_of(source: Source) -> dict[str, Any]:
    """What the denoiser's inputs are made by: its config, whatever its weights."""
    return {"class_name": source.class_name, **source.config}


def data_digest(path: Path) -> str:
    """sha256 of what is read: of a folder of images no leftovers and no other files."""
    is_images = path.is_dir() and not is_dataset(path)
    return images_digest(path) if is_images else content_digest(path)


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
        _check_takes_text(source)
    if quality.reference is None:
        if quality.features != "inception":
            raise RequestError(
                f"--features {quality.features} without --reference: there are no images whose"
                " features it would take",
                hint="name the images, --reference IMAGES, or leave --features out",
            )
        return
    check_images(Path(quality.reference), "--reference")
    if quality.features != "inception":
        check_file(Path(quality.features), "--features", "an ONNX file, or inception")


def _check_takes_text(source: Source) -> None:
    """Refuse prompts for a class without any condition: its config is enough, and no torch.

    check_conditions has the classes that have some, which need their inputs to be told.
    """
    if not family(source.class_name).text_places and not _class_count(source):
        raise RequestError(
            f"prompts were given, and this {source.class_name} attends to no text",
            hint="leave the prompts out",
        )


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
