"""What can be refused before the first stage, from the recipe, the configs and the files' headers.

    quick_checks   of the request, the folders and the targets; without torch
    model_checks   of the model on the meta device; its weights are not read

A stage never has to be the first to find out that it lacks something: a check that can be made from
these belongs here, so that nothing is refused after hours of work. ``plan``, ``inspect`` and
``diffc.load`` ask the same questions of the model.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from diffc import __version__
from diffc.errors import InputError
from diffc.follows import check_untouched
from diffc.launch import check_launcher, fsdp_is_configured, is_launched, process_count
from diffc.measure.quality.measuring import wanted_metrics
from diffc.models.families import family
from diffc.models.other_parts import absent_notes, check_parts, uncompressed_notes
from diffc.models.resolutions import check_resolution
from diffc.models.source import Source
from diffc.output import check_out, check_same_model, is_output
from diffc.prune.importance import check_score
from diffc.recipe import Recipe, recognised
from diffc.recipe.sections.training import TrainingSection, check_batch, check_shardable
from diffc.stages.build import check_targets
from diffc.stages.by_block import choose_by_block
from diffc.stages.data import check_data, check_values, model_packages
from diffc.stages.decoder import decoder_notes
from diffc.stages.importance import check_channels_alone
from diffc.stages.masked_decoder import masked_decoder_notes
from diffc.stages.needs import check_memory
from diffc.stages.noise import noise_checks, process_checks
from diffc.stages.plan import alignment, latency_device
from diffc_export.cache import cache_folder, cached_json
from diffc_export.disks import check_place
from diffc_runtime.machine.packages import version as package_version

PREFLIGHT = "preflight"
"""The name of the checks before the first stage, in events."""

_BEFORE_TRAINING = ("plan", "prune")
"""Where a run may stop before it trains."""
_VERSION = 6
"""Raised whenever ``model_checks`` refuses more than before: what passed is checked anew."""


def preflight(source: Source, recipe: Recipe, out: Path, stop: str) -> list[str]:
    """Refuse what a run up to ``stop`` could not do; OUT is not touched.

    Returns:
        What the user should know of the run that follows, one sentence each.

    Raises:
        RequestError, InputError, UnavailableError: with what is wrong and what would do.
    """
    check_place(out, "--out")
    check_out(out)
    check_place(cache_folder(), "DIFFC_CACHE")
    notes = quick_checks(source, recipe, stop)
    # a run in which every stage is reused then imports no torch
    key = model_key(source, recipe)
    notes += cached_json("preflight", key, lambda: model_checks(source, recipe), list)
    if not is_output(out) and not is_launched() and recipe.memory is None:
        check_memory(source, choose_by_block(source, recipe)[0], stop)
    check_same_model(out, source)  # last: it reads every weight
    if is_output(out) and stop != "plan":
        check_untouched(out)
    return list(dict.fromkeys(notes))


def quick_checks(source: Source, recipe: Recipe, stop: str) -> list[str]:
    """The checks that need neither torch nor the model's classes; returns notes."""
    _check_denoiser(source)
    check_resolution(source.class_name, source.config, recipe.export.requested_sizes)
    check_parts(source)
    check_data(source, recipe)
    _check_metrics(source, recipe)
    notes = [*_recipe_notes(source), *noise_checks(source, recipe), *uncompressed_notes(source)]
    notes += [*absent_notes(source), *_uncut_notes(recipe)]
    notes += [*decoder_notes(source), *masked_decoder_notes(source, recipe)]
    check_score(recipe.prune.importance.method)
    if stop in ("build", "bench"):
        check_targets(recipe.build)
    _check_sharding(recipe, stop)
    if stop not in _BEFORE_TRAINING:
        _check_trackers(recipe)
        for options in _trainings(recipe):
            _check_training(options)
    bench = latency_device(recipe)
    if bench is not None:
        bench.check()
    return notes


def _check_denoiser(source: Source) -> None:
    """Refuse a VAE, of which a plan can be made and no stage be run.

    Raises:
        InputError: The model is no denoiser.
    """
    if not family(source.class_name).is_denoiser:
        raise InputError(
            f"{source.class_name} is no denoiser: it has no timesteps to rank channels over",
            hint="plan and inspect work; the pipeline's folder, without --family, is compressed by "
            "its denoiser",
        )


def _check_metrics(source: Source, recipe: Recipe) -> None:
    """Refuse a figure that lacks weights, a package or an option; without torch.

    A figure that samples cannot have is left out, whatever it lacks: those are judged here by the
    config's size, and where it has none, or a VAE enlarges them, by ``model_checks``.

    Raises:
        RequestError, UnavailableError: with what is missing.
    """
    size = recipe.export.size or source.config.get("sample_size")
    shape = (size, size) if isinstance(size, int) else tuple(size or ())
    channels = 3 if "vae" in source.index else source.config.get("in_channels", 3)
    if len(shape) != 2:
        return
    for metric in wanted_metrics(recipe.quality):
        if metric.why_impossible((channels, *shape)) is None:
            metric.check(recipe.quality)


def _check_sharding(recipe: Recipe, stop: str) -> None:
    """Refuse a launch that diffc cannot be part of, and what no sharded network does."""
    check_launcher()
    if not is_launched() or recipe.shard == "off":
        return
    if recipe.shard == "auto" and not fsdp_is_configured():
        return  # the stages know whether there is room
    check_channels_alone(recipe.prune.cuts_depth)
    if stop not in _BEFORE_TRAINING:
        for options in _trainings(recipe):
            check_shardable(options)


def _trainings(recipe: Recipe) -> list[TrainingSection]:
    """How a run trains: a network that lost nothing learns loops alone."""
    distill = recipe.distill
    first = [distill] if distill.steps and not recipe.prune.removes_nothing else []
    return [*first, *([distill.loop] if distill.aim == "loop" else ())]


def _check_trackers(recipe: Recipe) -> None:
    """Refuse a tracker that is not there, also of a training that this recipe leaves out.

    Raises:
        UnavailableError: A tracker is unknown, or not installed.
    """
    trackers = dict.fromkeys((*recipe.distill.trackers, *recipe.distill.loop.trackers))
    if trackers:
        from diffc.distill.setup import check_trackers

        check_trackers(list(trackers))


def _check_training(options: TrainingSection) -> None:
    """Refuse what the training itself would refuse; torch is imported for precision fp16 alone.

    Raises:
        RequestError: The batch does not split over the processes, or the device has no such
            precision.
    """
    check_batch(options, process_count())
    if options.precision == "fp16":
        from diffc.data.precision import best_device
        from diffc.distill.setup import choose_dtype

        choose_dtype(options, best_device())


def _recipe_notes(source: Source) -> list[str]:
    """A sentence where the model is recognised by its config alone."""
    own = recognised(source.class_name, source.name, source.config)
    if own is None:
        return []
    return [f"by its config this is a model like {own.models[0]}: it gets the recipe {own.name}"]


def _uncut_notes(recipe: Recipe) -> list[str]:
    """A sentence where the recipe cuts nothing, and no loop is learnt that would differ.

    It is no mistake: engines of the dense model are measured so, in other precisions too.
    """
    if not recipe.prune.removes_nothing or recipe.distill.aim == "loop":
        return []
    return ["a ratio of 0 cuts and trains nothing: both sides of this run are the dense model"]


def model_checks(source: Source, recipe: Recipe) -> list[str]:
    """The checks of the model's components, on the meta device; returns notes."""
    from diffc.data.inputs import check_conditions, denoiser_specs
    from diffc.data.latents import check_decoder
    from diffc.measure.pictures import check_pictures
    from diffc.models.channels import check_channels
    from diffc.models.checking import check_components
    from diffc.models.families.base import sample_shape
    from diffc.prune.planning import check_plan

    check_channels(source)
    notes = lora_notes(source)
    shape = sample_shape(denoiser_specs(source, recipe))
    process_checks(source, shape)
    notes += check_conditions(source, recipe)
    check_values(source, recipe)
    notes += check_plan(source, recipe, alignment(recipe))
    notes += check_pictures(source, shape, recipe.quality)
    notes += check_components(source, prompts=recipe.data.prompts is not None)
    check_decoder(source, shape)
    return notes


def lora_notes(source: Source) -> list[str]:
    """What the LoRAs of a model change, one sentence each.

    Raises:
        InputError: One does not fit the model.
    """
    if not source.all_loras:
        return []
    from diffc.models.load import meta_denoiser
    from diffc.models.loras.fusing import check_loras

    tensors = meta_denoiser(source).state_dict()
    return check_loras(source, {name: tuple(value.shape) for name, value in tensors.items()})


def model_key(source: Source, recipe: Recipe) -> str:
    """A hash of all that ``model_checks`` reads; files by size and time, not by content."""
    given = (Path(path) for path in (recipe.data.source, recipe.data.prompts) if path)
    files = [*source.files, *(path for path in given if path.is_file())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    packages = (*model_packages(source), "transformers", "torch-pruning")
    versions = [__version__, *map(package_version, packages)]
    facts = [source.class_name, source.allow_pickle, recipe.model_dump(mode="json")]
    value = [_VERSION, versions, stats, *facts]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
