"""The half of the chain that needs the model: each function describes one stage.

Keys are made of hashes and options alone, so that a run in which everything is cached never imports
torch; the heavy imports stand inside the ``run`` functions.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc.chain.data import CLEAN, content_digest, model_packages
from diffc.data.guidance import decide_guidance
from diffc.errors import InputError
from diffc.measure.quality.measuring import metric_packages
from diffc.models.other_parts import parts_digest
from diffc.models.resolutions import multiple_of
from diffc.models.source import PRUNING_FILE, Source, find_source
from diffc.prune.importance import score_package
from diffc.recipe import Recipe
from diffc.recipe.sections.distill import WATCHING
from diffc.stages import STATE, Done, Room, Stage
from diffc_export.cache import cache_folder
from diffc_export.events import Progress, Work
from diffc_runtime.files import file_digest

if TYPE_CHECKING:
    from diffc.data.clean import CleanSet
    from diffc.distill.losses import Kept
    from diffc.distill.run import Judge
    from diffc.measure.quality.base import Metric
    from diffc.measure.quality.features import ReferenceImages
    from diffc.models.denoiser import Denoiser
    from diffc.prune.by_latency.device import LatencyDevice

SCORES = "importance.safetensors"
DENSE, COMPRESSED = "dense", "compressed"


def importance_stage(source: Source, recipe: Recipe, data: Done) -> Stage:
    """How much every channel matters; the same for every ratio."""
    options = recipe.prune.importance
    inputs = {
        "model": source.digest,
        "data": data.key,
        "options": options.model_dump(mode="json"),
        "resolution": recipe.export.size,
        "seed": recipe.seed,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        from safetensors.numpy import save_file

        from diffc.data.clean import CleanSet
        from diffc.data.precision import best_device
        from diffc.prune.importance import importance
        from diffc.prune.importance.base import Subject

        denoiser = _open(source, recipe)
        groups = denoiser.groups()
        clean = CleanSet.load(data.folder / CLEAN)
        denoiser.model.to(best_device())
        found = yield from importance(
            Subject(denoiser, clean, groups, denoiser.family.branches(denoiser.model)),
            options,
            recipe.seed,
        )
        save_file(dict(found.scores), room.out / SCORES)
        return {"why": dict(found.why), "groups": len(groups)}

    places = {SCORES: f"{STATE}/{SCORES}"}
    package = score_package(options.method)
    packages = (*model_packages(source), "torch-pruning", *([package] if package else []))
    return Stage("importance", 4, inputs, run, places, packages, collective=True)


def plan_stage(source: Source, recipe: Recipe, importance: Done | None) -> Stage:
    """The widths; ``importance`` None plans from the config alone (uniform, no ranking)."""
    inputs: dict[str, Any] = {
        "model": source.digest,
        "importance": importance.key if importance else None,
        "options": recipe.prune.model_dump(mode="json", exclude={"importance"}),
        "align": alignment(recipe),
        "resolution": recipe.export.size,
    }
    bench = latency_device(recipe)
    if bench is not None:
        inputs |= {"bench": bench.facts(), "export": recipe.export.model_dump(mode="json")}

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.prune.planning import make_plan

        scores, why = _read_scores(importance)
        yield Progress(0, 1, "planning widths")
        if bench is None:
            plan = make_plan(source, recipe, scores, why, alignment(recipe))
        else:
            from diffc.prune.by_latency.search import plan_by_latency

            plan = yield from plan_by_latency(
                source, recipe, scores, why, alignment(recipe), bench, room.scratch
            )
        plan.save(room.out / "plan.json")
        found = {"latency": plan.why["latency"]["measured"]} if bench is not None else {}
        return {**plan_summary(plan), **found}

    return Stage("plan", 1, inputs, run, {"plan.json": "plan.json"}, ("torch-pruning", "diffusers"))


def prune_stage(source: Source, recipe: Recipe, plan: Done) -> Stage:
    """Surgery: OUT/pruned."""
    inputs = {
        "model": source.digest,
        "parts": parts_digest(source),
        "plan": plan.key,
        "plan_file": _sha(plan.folder / "plan.json"),
        "resolution": recipe.export.size,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.models.save import save_compressed
        from diffc.prune.plan import Plan
        from diffc.prune.surgery import cut

        yield Progress(0, 1, "cutting channels")
        denoiser = _open(source, recipe)
        chosen = Plan.read(plan.folder / "plan.json")
        cut(denoiser.model, denoiser.units(), chosen.keep())
        save_compressed(denoiser.model, source, room.out / "pruned", plan_summary(chosen))
        return {"params": chosen.compressed.params}

    return Stage("prune", 2, inputs, run, {"pruned": "pruned"}, model_packages(source))


def distill_stage(source: Source, recipe: Recipe, data: Done, plan: Done, pruned: Done) -> Stage:
    """Distillation from the dense model: OUT/model."""
    options = recipe.distill
    inputs = {
        "model": source.digest,
        "parts": parts_digest(source),
        "data": data.key,
        "pruned": pruned.key,
        "options": options.model_dump(mode="json", exclude=set(WATCHING)),
        "seed": recipe.seed,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        if options.steps == 0:
            shutil.copytree(pruned.folder / "pruned", room.out / "model")
            yield Progress(1, 1, "no distillation asked for")
            return {"steps": 0, "losses": []}
        return (yield from _distill(source, recipe, data, plan, pruned, room))

    places = {"model": "model"}
    packages = (*model_packages(source), "accelerate")
    return Stage("distill", 6, inputs, run, places, packages, collective=options.steps > 0)


def export_stage(source: Source, recipe: Recipe, data: Done, plan: Done, side: str,
                 distilled: Done) -> Stage:  # fmt: skip
    """ONNX of one side, with model.json and what torch gave at reference inputs."""
    inputs = {
        "model": source.digest if side == DENSE else distilled.key,
        "data": data.key,
        "options": recipe.export.model_dump(mode="json"),
        "macs": plan.result[side]["macs"],
        "seed": recipe.seed,
    }

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.data.clean import CleanSet
        from diffc.measure.reference import write_reference
        from diffc.models.diffusion import served_settings
        from diffc.models.onnx_export import export_denoiser

        origin = source if side == DENSE else find_source(distilled.folder / "model")
        denoiser = _open(origin, recipe)
        yield Progress(0, 2, f"exporting the {side} model")
        facts = {
            "prediction": denoiser.process.prediction,
            "scheduler": served_settings(source.scheduler),
            "parameters": sum(p.numel() for p in denoiser.model.parameters()),
            "macs": plan.result[side]["macs"],
        }
        options = recipe.export
        described = export_denoiser(
            denoiser.model,
            denoiser.family,
            denoiser.specs,
            room.out / side,
            opset=options.opset,
            simplify=options.simplify,
            facts=facts,
            sizes=options.sizes,
            multiple=multiple_of(source.class_name, source.config) or 1,
        )
        yield Progress(1, 2, f"running the {side} model at reference inputs")
        clean = CleanSet.load(data.folder / CLEAN)
        reference = room.out / side / "reference.safetensors"
        write_reference(reference, denoiser, clean, recipe.seed, options.sizes[1:])
        return {"sha256": described["sha256"], "parameters": facts["parameters"]}

    packages = (*model_packages(source), "onnx", "onnxscript", "onnxslim")
    return Stage(f"export-{side}", 3, inputs, run, {side: f"onnx/{side}"}, packages)


def samples_stage(source: Source, recipe: Recipe, data: Done, distilled: Done) -> Stage:
    """The same noise through both models: OUT/samples, and how alike they are."""
    options = recipe.quality
    unused = None if options.metrics else {"metrics"}  # keys of earlier runs stay valid
    inputs: dict[str, Any] = {
        "model": source.digest,
        "vae": source.vae.digest if source.vae is not None else None,
        "compressed": distilled.key,
        "options": options.model_dump(mode="json", exclude=unused),
    }
    guidance = decide_guidance(source, recipe.data.guidance).scale
    if data.result.get("conditions") or data.result.get("null"):
        inputs |= {"data": data.key, "guidance": guidance}
    if options.reference is not None:
        inputs["reference"] = content_digest(_existing(options.reference, "--reference"))
        inputs["fit"] = recipe.data.fit
        if options.features != "inception":
            inputs["features"] = content_digest(_existing(options.features, "--features"))

    def run(room: Room) -> Work[dict[str, Any]]:
        from diffc.data.clean import CleanSet
        from diffc.data.inputs import denoiser_specs
        from diffc.data.latents import decode_latents
        from diffc.data.precision import best_device
        from diffc.data.synthetic import Conditioning
        from diffc.measure.picture_files import grid, write_pair
        from diffc.measure.pictures import picture_shape
        from diffc.measure.quality.measuring import checked_metrics, measure_quality
        from diffc.measure.samples import sample_pair
        from diffc.models.families.base import sample_shape
        from diffc.models.load import load_denoiser

        shape = picture_shape(source, sample_shape(denoiser_specs(source, recipe)))
        (room.out / "samples").mkdir()
        if shape is None:
            yield Progress(1, 1, "samples are no pictures")
            return {}
        metrics = checked_metrics(shape, options)
        reference = yield from _reference(recipe, shape, metrics)
        dense = _open(source, recipe)
        compressed = load_denoiser(find_source(distilled.folder / "model"))
        dense.model.to(best_device()), compressed.to(best_device())
        clean = CleanSet.load(data.folder / CLEAN)
        rows = {name: clean.conditions[name] for name in data.result.get("conditions", ())}
        given = Conditioning(rows, clean.null, guidance)
        pair = yield from sample_pair(
            dense, compressed, options.images, given, steps=options.steps, seed=options.seed
        )
        made = []
        for latents in (pair.dense, pair.compressed):
            made.append((yield from decode_latents(source, latents)))
        pair = replace(pair, dense=made[0], compressed=made[1])
        grid(pair, room.out / "samples" / "grid.png")
        write_pair(pair, room.out / "samples")
        return (yield from measure_quality(pair, metrics, reference))

    places = {"samples": "samples"}
    packages = (*model_packages(source), "pillow", *metric_packages(options))
    return Stage("samples", 8, inputs, run, places, packages)


def _reference(
    recipe: Recipe, shape: tuple[int, int, int], metrics: Sequence[Metric]
) -> Work[ReferenceImages | None]:
    """The reference images at the size of the decoded samples, prepared for the metrics.

    Making samples takes long, so whatever can fail before them fails here.
    """
    from diffc.data.images import read_images
    from diffc.measure.quality.features import ReferenceImages

    options, reference = recipe.quality, None
    if any(one.uses_reference for one in metrics):
        clean, _ = read_images(
            Path(str(options.reference)),
            shape,
            limit=options.reference_images,
            seed=options.seed,
            fit=recipe.data.fit,
        )
        reference = ReferenceImages(clean.sample, options.features)
    for one in metrics:
        yield from one.prepare(reference)
    return reference


def _existing(path: str, flag: str) -> Path:
    """The path. Raises InputError naming the flag that gave it."""
    if not Path(path).exists():
        raise InputError(f"{flag}: there is nothing at '{path}'")
    return Path(path)


def latency_device(recipe: Recipe) -> LatencyDevice | None:
    """Where a plan by latency takes it: the first target, at the first batch size.

    None where no latency is asked for. In fp32 while the precision is still to be chosen.
    """
    options, build = recipe.prune, recipe.build.of(recipe.build.target[0])
    if options.rounding == "paper" or "latency" not in (options.allocate, options.ratio_of):
        return None
    from diffc.prune.by_latency.device import LatencyDevice

    precision = "fp32" if build.precision == "auto" else build.precision
    return LatencyDevice(build.target[0], precision, build.batch[0], build.threads, cache_folder())


def alignment(recipe: Recipe) -> int:
    """What widths are a multiple of, when the recipe does not say.

    What each target says for its precision; their least common multiple where there are several.
    """
    from diffc_export.targets import target

    if recipe.prune.align is not None:
        return recipe.prune.align
    build = recipe.build
    facts = {name: target(name).facts for name in build.target}
    return math.lcm(*(one.width_multiple(build.of(n).precision) for n, one in facts.items()))


def plan_summary(plan: Any) -> dict[str, Any]:
    """The plan in figures: costs before and after."""
    sides = {DENSE: plan.dense, COMPRESSED: plan.compressed}
    costs = {
        side: {"params": cost.params, "macs": cost.macs, "macs_paper": cost.macs_paper}
        for side, cost in sides.items()
    }
    cut = sum(group.kept < group.size for group in plan.groups)
    return {**costs, "groups": len(plan.groups), "groups_cut": cut}


def _distill(
    source: Source, recipe: Recipe, data: Done, plan: Done, pruned: Done, room: Room
) -> Work[dict[str, Any]]:
    from diffc.data.clean import CleanSet
    from diffc.distill.run import ModelPair
    from diffc.distill.train import distill
    from diffc.models.load import load_denoiser
    from diffc.models.save import save_compressed

    teacher = _open(source, recipe)
    student = load_denoiser(find_source(pruned.folder / "pruned"))
    clean = CleanSet.load(data.folder / CLEAN)
    options = recipe.distill
    kept = _kept_channels(recipe, teacher, plan)
    judge, notes = _judge(source, recipe, teacher, clean)
    pair = ModelPair(teacher, student, kept)
    result = yield from distill(
        pair, clean, options, room.scratch, seed=recipe.seed, judge=judge, logs=room.logs
    )
    summary = json.loads((pruned.folder / "pruned" / PRUNING_FILE).read_text("utf-8"))
    facts = ("dense", "compressed", "groups", "groups_cut")
    save_compressed(student, source, room.out / "model", {k: summary[k] for k in facts})
    return {
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "losses": result.losses,
        "quality": [{"step": step, "ssim": ssim} for step, ssim in result.quality],
        "images_per_second": result.images_per_second,
        "precision": result.precision,
        "notes": [*notes, *result.notes],
    }


def _judge(
    source: Source, recipe: Recipe, teacher: Denoiser, clean: CleanSet
) -> tuple[Judge | None, list[str]]:
    """Who takes the curve of quality, on images; None, and why, where samples are none."""
    from diffc.data.latents import decode_latents, vae_folder
    from diffc.measure.pictures import picture_shape
    from diffc.measure.quality.ssim import WINDOW, is_image
    from diffc.measure.samples import consistency

    if not recipe.distill.quality_every:
        return None, []
    shape = picture_shape(source, teacher.sample_shape)
    if shape is None or not is_image(shape):
        least = f"{WINDOW}x{WINDOW}"
        words = shape or teacher.sample_shape
        return None, [f"no curve of quality: samples of {words} are no images of at least {least}"]
    through = partial(decode_latents, source) if vae_folder(source) is not None else None
    return consistency(teacher, clean.conditions, decode=through), []


def _kept_channels(recipe: Recipe, teacher: Denoiser, plan: Done) -> Kept | None:
    """For the feature loss: which channels of each block's output are still there."""
    if not recipe.distill.losses.features:
        return None
    from diffc.distill.blocks import kept_channels
    from diffc.prune.plan import Plan

    keep = Plan.read(plan.folder / "plan.json").keep()
    return kept_channels(teacher.model, teacher.family, teacher.groups(), keep)


def _open(source: Source, recipe: Recipe) -> Denoiser:
    from diffc.data.inputs import denoiser_specs
    from diffc.models.denoiser import open_denoiser

    return open_denoiser(source, denoiser_specs(source, recipe))


def _read_scores(importance: Done | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    if importance is None:
        return None, {}
    from safetensors.numpy import load_file

    return load_file(importance.folder / SCORES), dict(importance.result["why"])


def _sha(path: Path) -> str:
    return file_digest(path)
