"""The samples stage: the same noise through both models, and how alike they are. OUT/samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffc.data.guidance import decide_guidance
from diffc.data.loops import run_loops
from diffc.errors import InputError
from diffc.measure.quality.measuring import metric_packages
from diffc.models.source import Source, find_source
from diffc.recipe import QualitySection, Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput, ModelInput, RunShape, SectionInput
from diffc.stage_outcomes import DataOutcome, DistillOutcome, FuseOutcome, SamplesOutcome
from diffc.stages.data import CLEAN, data_digest, model_packages
from diffc.stages.distill import MODEL
from diffc_export.events import Progress, Work
from diffc_runtime.loop import Loop

if TYPE_CHECKING:
    from diffc.data.clean import CleanSet
    from diffc.data.synthetic import Conditioning
    from diffc.measure.quality.base import Metric
    from diffc.measure.quality.features import ReferenceImages
    from diffc.measure.quality.own_distance import OwnFeatures
    from diffc.measure.samples import SamplePair
    from diffc.models.denoiser import Denoiser

SAMPLES = "samples"
EVALUATIONS = "evals"
DENSE_SAMPLES = f"{SAMPLES}/dense.safetensors"
"""The dense model's images, for what is judged beside the compressed model's later."""


@dataclass(frozen=True)
class SamplesInputs:
    """What samples and their figures follow from.

    Attributes:
        model: The dense model.
        vae: The VAE that decodes its samples.
        compressed: The compressed model.
        data: The conditions, the null conditions, and the samples that both sides are compared
            with as sets.
        prompts: The prompts of these conditions, for naming images; None without prompts.
        loop: How the compressed model is sampled.
        reference_loop: How the dense model is sampled.
        options: How many samples, and which figures; its files are the next two fields.
        reference: Images to compare both sides with; None for none.
        features: The network whose features are compared; None for the usual one.
        fit: What happens to reference images of another size; None without ``reference``.
        shape: What the denoiser's inputs are like.
    """

    model: ModelInput
    vae: ModelInput
    compressed: StageResult[DistillOutcome | FuseOutcome]
    data: StageResult[DataOutcome]
    prompts: FileInput | None
    loop: Loop
    reference_loop: Loop
    options: SectionInput[QualitySection]
    reference: FileInput | None
    features: FileInput | None
    fit: Literal["skip", "resize"] | None
    shape: RunShape


def samples_stage(
    source: Source,
    recipe: Recipe,
    data: StageResult[DataOutcome],
    distilled: StageResult[DistillOutcome | FuseOutcome],
) -> Stage[SamplesInputs, SamplesOutcome]:
    """Samples of both models."""
    options = recipe.quality
    has_conditions = bool(data.result.conditions or data.result.null)
    reference, features = options.reference, options.features
    guidance = decide_guidance(source, recipe.data.guidance).scale if has_conditions else 1.0
    compressed = find_source(distilled.folder / MODEL)  # it may have a scheduler of its own
    ours = run_loops(recipe, compressed.scheduler, guidance).first
    theirs = run_loops(recipe, source.scheduler, guidance).reference
    compares = reference is not None
    inputs = SamplesInputs(
        model=ModelInput.denoiser(source),
        vae=ModelInput.vae(source),
        compressed=distilled,
        data=data,
        prompts=_prompts(recipe) if has_conditions else None,
        loop=ours,
        reference_loop=theirs,
        options=SectionInput(options, without=("reference", "features")),
        reference=None if reference is None else _existing(reference, "--reference"),
        features=_existing(features, "--features") if compares and features != USUAL else None,
        fit=recipe.data.fit if compares else None,
        shape=RunShape.of(recipe),
    )
    packages = (*model_packages(source), "pillow", *metric_packages(options))
    places = {SAMPLES: SAMPLES}
    return Stage("samples", 12, inputs, compare, SamplesOutcome, places, packages)


def evaluation_stage(
    samples: Stage[SamplesInputs, SamplesOutcome],
) -> Stage[SamplesInputs, SamplesOutcome]:
    """The same beside the run's own samples: OUT/evals/NAME, whose name its inputs decide."""
    name = replace(samples, name="eval").key[:8]
    return replace(samples, name=f"eval-{name}", places={SAMPLES: f"{EVALUATIONS}/{name}"})


MOST_OWN_REFERENCE = 512
"""The most samples that both sides are compared with on the dense model's own features."""
USUAL = "inception"
"""The features where no file of them is given."""


def compare(inputs: SamplesInputs, folder: StageFolder) -> Work[SamplesOutcome]:
    """Write pictures of both models' samples; return the figures of quality."""
    from safetensors.torch import save_file

    from diffc.data.clean import CleanSet
    from diffc.data.latents import decode_latents
    from diffc.data.precision import best_device
    from diffc.measure.picture_files import grid, write_pair
    from diffc.measure.pictures import picture_shape
    from diffc.measure.quality.measuring import checked_metrics, measure_quality
    from diffc.measure.samples import ModelLoop, sample_pair
    from diffc.models.families.base import sample_shape

    source, options = inputs.model.source, inputs.options.section
    shape = picture_shape(inputs.vae.source, sample_shape(inputs.shape.specs(source)))
    (folder.out / SAMPLES).mkdir()
    if shape is None:
        yield Progress(1, 1, "samples are no pictures")
        return SamplesOutcome()
    metrics = checked_metrics(shape, options)
    reference = yield from _reference(inputs, shape, metrics)
    cut = find_source(inputs.compressed.folder / MODEL)
    with inputs.shape.mapped(source) as dense, inputs.shape.mapped(cut) as compressed:
        dense.model.to(best_device()), compressed.model.to(best_device())
        ours, theirs = ModelLoop(compressed, inputs.loop), ModelLoop(dense, inputs.reference_loop)
        clean = CleanSet.load(inputs.data.folder / CLEAN)
        given = _conditioning(inputs, clean)
        pair = yield from sample_pair(theirs, ours, options.images, given, seed=options.seed)
        own = yield from _own_features(inputs, _Sampled(dense, pair, given), clean, reference)
    dense_images = yield from decode_latents(inputs.vae.source, pair.dense)
    compressed_images = yield from decode_latents(inputs.vae.source, pair.compressed)
    pair = replace(pair, dense=dense_images, compressed=compressed_images, own=own)
    grid(pair, folder.out / SAMPLES / "grid.png")
    write_pair(pair, folder.out / SAMPLES)
    # in half precision, whose rounding no digit of an SSIM shows
    save_file({"dense": dense_images.half().contiguous()}, folder.out / DENSE_SAMPLES)
    figures = yield from measure_quality(pair, metrics, reference)
    return SamplesOutcome(**figures, **_prompts_of(inputs, len(dense_images)))


def _prompts(recipe: Recipe) -> FileInput | None:
    path = recipe.data.prompts
    return None if path is None else FileInput.of(Path(path))


def _prompts_of(inputs: SamplesInputs, n: int) -> dict[str, list[str]]:
    """``prompts``: of each image; nothing without prompts.

    Image i takes row i of the clean samples' conditions, and these took the prompts in turn.
    """
    from diffc.data.prompt_file import read_prompts

    if inputs.prompts is None:
        return {}
    prompts, rows = read_prompts(inputs.prompts.path), inputs.data.result.images
    return {"prompts": [prompts[i % rows % len(prompts)] for i in range(n)]}


def _conditioning(inputs: SamplesInputs, clean: CleanSet) -> Conditioning:
    from diffc.data.synthetic import Conditioning

    rows = {name: clean.conditions[name] for name in inputs.data.result.conditions}
    return Conditioning(rows, clean.null)


@dataclass(frozen=True)
class _Sampled:
    """Samples as the denoiser gives them, the dense model, and what they were made under."""

    dense: Denoiser
    pair: SamplePair
    given: Conditioning


def _own_features(
    inputs: SamplesInputs, sampled: _Sampled, clean: CleanSet, reference: ReferenceImages | None
) -> Work[OwnFeatures | None]:
    """Both sides' features by the dense model, beside those of what they are compared with.

    These are the reference images where there are some, or else the run's clean samples: the dense
    model's own, from other noise, or the user's data. None for a network without a middle block.
    """
    from diffc.data.latents import encode_images, vae_folder
    from diffc.measure.quality.own_features import (
        GivenRows,
        NoMiddle,
        given_rows,
        own_features,
        own_reference,
    )

    dense, source, most = sampled.dense, inputs.model.source, MOST_OWN_REFERENCE
    samples, of = clean.sample[:most], clean.origin
    rows = GivenRows({name: rows[:most] for name, rows in clean.conditions.items()}, clean.null)
    if reference is not None:
        samples, of = reference.images[:most], "reference images"
        if vae_folder(source) is not None:
            samples = yield from encode_images(source, samples, dense.sample_shape)
        rows = given_rows(dense, range(len(samples)), sampled.given, inputs.options.section.seed)
    try:
        theirs = yield from own_reference(dense, samples, rows, of=of, digest=source.digest)
        return (yield from own_features(dense, sampled.pair, sampled.given, theirs))
    except NoMiddle:
        return None


def _reference(
    inputs: SamplesInputs, shape: tuple[int, int, int], metrics: Sequence[Metric]
) -> Work[ReferenceImages | None]:
    """The reference images at the size of the decoded samples, prepared for the metrics.

    Making samples takes long, so whatever can fail before them fails here.
    """
    from diffc.data.images import read_images
    from diffc.measure.quality.features import ReferenceImages

    options, reference = inputs.options.section, None
    if inputs.reference is not None and any(one.uses_reference for one in metrics):
        clean, _ = read_images(
            inputs.reference.path,
            shape,
            limit=options.reference_images,
            seed=options.seed,
            fit=inputs.fit or "skip",
        )
        features = USUAL if inputs.features is None else str(inputs.features.path)
        reference = ReferenceImages(clean.sample, features)
    for one in metrics:
        yield from one.prepare(reference)
    return reference


def _existing(path: str, flag: str) -> FileInput:
    """The file, or the images of a folder. Raises InputError naming the flag that gave it."""
    place = Path(path)
    if not place.exists():
        raise InputError(f"{flag}: there is nothing at '{path}'")
    return FileInput(place, data_digest(place))
