"""How long the stages of a run will take, and what it needs of memory and disk: estimates.

The recipe says how many rows of calls each stage takes; call_rate.py measures what a row takes
here. What is no call of the network takes seconds that were fitted to one run of the demo on two
cores (bench/results/demo-run.json): export, repair, times, figures. Such an
estimate is rough; the end of a run says how far off it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diffc.data.guidance import decide_guidance
from diffc.data.loops import RunLoops, run_loops
from diffc.durations import Rate
from diffc.measure.frontier.loops import FrontierLoops
from diffc.models.families import family
from diffc.models.source import Source
from diffc.output import DECODER, MASKED_DECODER, SIDES, VAE_ENCODER
from diffc.recipe import Recipe
from diffc.recipe.sections.distill import LoopTrainingSection
from diffc.recipe.sections.training import (
    GRADIENT_BYTES,
    TRAINED_BYTES,
    WEIGHT_BYTES,
    LowRankSection,
    TrainingSection,
)
from diffc.stages.bench import FEW_IMAGES
from diffc.stages.data import keeps_states
from diffc.stages.frontier import MOST_IMAGES, MOST_SECONDS, OF_REFERENCE, ROUNDS
from diffc.stages.text import text_stage
from diffc.stages.uncut_memory import uncut_names
from diffc_runtime.errors import BadRequest
from diffc_runtime.loop import Loop
from diffc_runtime.prompt_plan import TEXT_FOLDER

_ENGINE, _EAGER = 0.7, 1.5
"""A call of an engine, and of torch eager one image at a time, over one as measured."""


@dataclass(frozen=True)
class _PlannedRun:
    """What the estimates of one run are made from.

    Attributes:
        source: The model.
        recipe: Every option.
        rate: What calls take here.
        share: A compressed call's MACs over a dense one's.
        guided: Rows of a guided call: 2 with classifier-free guidance, else 1.
        loops: Of both sides.
    """

    source: Source
    recipe: Recipe
    rate: Rate
    share: float
    guided: int
    loops: RunLoops

    @property
    def millions(self) -> float:
        """The dense model's parameters, in millions."""
        return self.rate.params / 1e6

    def rows(self, loop: Loop) -> int:
        """Rows of one image; of a loop that cannot run, one for each step."""
        try:
            return loop.rows(self.source.scheduler)
        except BadRequest:
            return loop.steps or 1


def stage_seconds(
    source: Source, recipe: Recipe, stop: str, rate: Rate, share: float | None = None
) -> dict[str, float]:
    """What each stage will take, in their order; an estimate.

    Args:
        source: The model.
        recipe: Every option.
        stop: The last stage, of ``diffc.stages.order.STOPS``.
        rate: What calls take on this machine.
        share: A compressed call's MACs over a dense one's; None: by the recipe's ratio.

    Returns:
        Seconds by the stage's name. Builds for GPUs, which take minutes, are not known: 0.
    """
    guided = _rows_of_guidance(source, recipe)
    scale = decide_guidance(source, recipe.data.guidance).scale if guided > 1 else 1.0
    run = _PlannedRun(
        source=source,
        recipe=recipe,
        rate=rate,
        share=1 - recipe.prune.ratio if share is None else share,
        guided=guided,
        loops=run_loops(recipe, source.scheduler, scale),
    )
    parts = {"plan": _to_plan, "prune": _pruning, "distill": _training, "export": _exports}
    seconds: dict[str, float] = {}
    for name, part in parts.items():
        seconds.update(part(run))
        if name == stop:
            return seconds
    for target in recipe.build.target:
        seconds.update(_engines(run, target, bench=stop == "bench"))
    return seconds


def training_bytes(
    dense: int, small: int, calls: int | None, low_rank: LowRankSection | None = None
) -> int:
    """Memory of a training.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        calls: What its calls take, gradients with activations (call_memory.py); None leaves
            activations out. Low-rank additions are counted with it.
        low_rank: Those that are trained in the place of the weights, if its rank is one.
    """
    if low_rank is not None and low_rank.rank:
        return WEIGHT_BYTES * (small + dense) + (calls or 0)
    kept = (TRAINED_BYTES - GRADIENT_BYTES) * small + WEIGHT_BYTES * dense
    return kept + max(GRADIENT_BYTES * small, calls or 0)


def trainings(dense: int, small: int, recipe: Recipe, calls: Mapping[str, int]) -> dict[str, int]:
    """Memory of each training of whole networks, stage -> bytes; empty where there is none.

    Args:
        dense: Parameters of the dense model.
        small: Parameters of the compressed one.
        recipe: Every option.
        calls: What the stages' calls take (call_memory.py); of a stage that is not in it
            activations are left out.
    """
    distill, each = recipe.distill, {}
    if distill.steps:
        each["distill"] = training_bytes(dense, small, calls.get("distill"), distill.low_rank)
    if distill.aim == "loop":
        beside = dense if distill.loop.features else 0
        loop = calls.get("distill-loop")
        each["distill-loop"] = training_bytes(beside, small, loop, distill.low_rank)
    return each


def out_bytes(dense: int, small: int, targets: int) -> int:
    """Disk of OUT in fp32: the model before and after training, ONNX and engines of both sides."""
    return WEIGHT_BYTES * (2 * small + (1 + targets) * (dense + small))


def _rows_of_guidance(source: Source, recipe: Recipe) -> int:
    """2 where images are made with classifier-free guidance."""
    has_null = recipe.data.prompts or family(source.class_name).null_conditions(source.config)
    return 2 if has_null and decide_guidance(source, recipe.data.guidance).scale != 1 else 1


def _to_plan(run: _PlannedRun) -> Iterator[tuple[str, float]]:
    options, call = run.recipe.data, run.rate.call_seconds
    own = options.source == "synthetic"
    yield "data", 3 + (options.images * options.steps * run.guided * call if own else 0)
    ranking = run.recipe.prune.importance
    # what the default score takes; the others take no more
    rows = ranking.grid * ranking.curve_images + 3 * ranking.passes * ranking.batch
    depth = 60 * ranking.branch_rows if run.recipe.prune.cuts_depth else 0  # of some branches
    yield "importance", 3 + rows * run.rate.training_seconds / 3 + depth * call
    yield "plan", 0.3


def _pruning(run: _PlannedRun) -> Iterator[tuple[str, float]]:
    yield "prune", 0.5 + 0.01 * run.millions


def _training(run: _PlannedRun) -> Iterator[tuple[str, float]]:
    options, call = run.recipe.distill, run.rate.call_seconds
    repair = run.recipe.repair
    rows = 3 * repair.rows * (1 + run.share)
    yield "repair", 0.1 if repair.mode == "off" else 6 + 0.02 * run.millions + rows * call
    alone = options.block_local
    if alone.steps:  # the dense network once, the cut one twice over a quarter, and the training
        through = alone.rows * (1 + run.share / 2) * call
        learning = alone.steps * alone.batch * run.share * run.rate.training_seconds
        yield "distill-blocks", 3 + through + learning
    judged = options.steps // options.quality_every if options.quality_every else 0
    pairs = judged * 8 * 20 * (1 + run.share) * call
    yield "distill", 3 + _steps(run, options, teacher=1 / 3) + pairs if options.steps else 0.3
    own = run.loops.first
    if options.aim == "loop":
        loop = options.loop
        known = run.recipe.data.images if keeps_states(run.recipe) else 0
        fresh = max(0, loop.trajectories - known)
        yield "trajectories", 3 + fresh * loop.teacher_steps * run.guided * call
        yield "distill-loop", 6 + _steps(run, loop, teacher=_features(run, loop))
    reference = run.rows(run.loops.reference)
    of_pair = reference + run.rows(own) * run.share
    images = run.recipe.quality.images
    own_features = min(512, run.recipe.data.images) + 2 * images
    yield "samples", 4 + (images * of_pair + own_features) * call


def _features(run: _PlannedRun, options: LoopTrainingSection) -> float:
    """Calls of the dense model for a row's features, over a dense row of training.

    Half of the network sees the student's sample, and gradients come back through that half; it
    sees a target too, once where the same targets come twice or more.
    """
    if not options.features:
        return 0.0
    half = 0.5 / 3
    targets = options.trajectories * sum(loop.steps or 1 for loop in run.loops.loops)
    again = max(1.0, options.steps * options.batch / targets)
    return 2 * half + (half / again if again >= 2 else half)


def _steps(run: _PlannedRun, options: TrainingSection, teacher: float) -> float:
    """Seconds of a training; ``teacher``: its calls of a row, over a dense row of training."""
    again = 4 / 3 if options.gradient_checkpointing else 1.0
    rows = options.steps * options.batch
    return rows * (teacher + run.share * again) * run.rate.training_seconds


def _exports(run: _PlannedRun) -> Iterator[tuple[str, float]]:
    # the first one loads PyTorch's exporter
    for side, seconds, share in (("dense", 10, 1.0), ("compressed", 4, run.share)):
        yield f"export-{side}", seconds + 0.08 * run.millions * share
    for name, cost in _uncut_exports(run.source, run.recipe).items():
        yield f"export-{name}", cost


def _uncut_exports(source: Source, recipe: Recipe) -> dict[str, float]:
    """The networks that are not cut, and what an export of each takes."""
    of_vae = {DECODER: 15.0, VAE_ENCODER: 9.0, MASKED_DECODER: 15.0}
    names = uncut_names(source, recipe)
    seconds = {name: of_vae[name] for name in names if name in of_vae}
    if text_stage(source, recipe) is not None:
        seconds[TEXT_FOLDER] = 0.1
    return seconds | {name: 6.0 for name in names if name not in of_vae}


def _engines(run: _PlannedRun, target: str, *, bench: bool) -> Iterator[tuple[str, float]]:
    from diffc_export.targets import target as find_target

    recipe, chosen = run.recipe.for_target(target), find_target(target)
    measured = recipe.measure
    shapes = len(recipe.build.batch) * max(1, len(recipe.export.requested_sizes))
    timing = shapes * 2 * measured.seconds
    on_cpu = chosen.facts.device == "cpu"
    if recipe.build.precision == "auto":
        yield f"choose-{target}", 30 + 3 * timing
    for side in SIDES:
        yield f"build-{target}-{side}", 0.3 + 0.01 * run.millions if on_cpu else 0.0
    for name in _uncut_exports(run.source, recipe):
        if name != TEXT_FOLDER:  # the tokenizers are no network
            yield f"build-{target}-{name}", 0.1 if on_cpu else 0.0
    if not bench or not chosen.status().runnable:
        return
    reference, own = run.rows(run.loops.reference), run.rows(run.loops.first)
    images = 2 * measured.loop_runs if measured.frontier == "off" else 1 + FEW_IMAGES
    of_image = _ENGINE * run.rate.call_seconds * (reference + own * run.share)
    yield f"bench-{target}", 6 + 1.3 * timing + images * of_image
    if measured.frontier != "off":
        yield f"frontier-{target}", 6 + _frontier(run, recipe)
    if measured.explain != "off" and not chosen.facts.runs_torch:
        yield f"explain-{target}", 4.0 if measured.explain == "on" else 90.0


def _frontier(run: _PlannedRun, recipe: Recipe) -> float:
    """The images of every loop of both sides, and their times in turn."""
    extent, call = recipe.measure.frontier, run.rate.call_seconds
    ratio = max(run.share, 0.01)
    learned = recipe.distill.aim == "loop"
    loops = FrontierLoops(run.loops.reference, run.loops.loops, extent, ratio, learned)
    dense = sum(run.rows(one.loop) for one in loops.of_dense(run.source.scheduler))
    small = sum(run.rows(one.loop) for one in loops.of_compressed(run.source.scheduler))
    reference = run.rows(run.loops.reference)
    once = _ENGINE * call * (dense + run.share * small)
    images = min(MOST_IMAGES[extent], recipe.quality.images)
    of_reference = min(OF_REFERENCE[extent] or images, images)
    # a student's own reference loop is timed, and its images are those before that training
    long = _ENGINE * call * reference * (1 + (run.share if learned else 0.0))
    judged = images * (once - long) + of_reference * (long + _ENGINE * call * reference * learned)
    eager = _EAGER * call * reference if recipe.measure.explain != "off" else 0.0
    timed = min(ROUNDS[extent] * (once + eager), MOST_SECONDS[extent])
    return judged + once + eager + timed
