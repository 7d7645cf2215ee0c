"""The order of the stages, and what each verb asks of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from diffc.durations import keep_seconds
from diffc.errors import CheckFailed, InputError
from diffc.follows import check_onnx, still_follows
from diffc.launch import is_launched, process_rank
from diffc.locks import out_lock
from diffc.models.loras.files import DENOISER, with_loras
from diffc.models.shipped import is_shipped
from diffc.models.source import Source
from diffc.output import (
    is_output,
    locked_recipe,
    read_lock,
    write_lock,
    write_lock_of,
    write_notes,
)
from diffc.placing import clear_folder, move_files
from diffc.recipe import Recipe
from diffc.report.collect import Commands, collect, commands_with, stage_records
from diffc.report.model import Report
from diffc.runner import (
    LOGS,
    Outcome,
    Stage,
    StageEvent,
    StageResult,
    StageRunner,
    StageWork,
)
from diffc.stage_outcomes import (
    BlockLocalOutcome,
    DataOutcome,
    DistillOutcome,
    FuseOutcome,
    PlanOutcome,
    RepairOutcome,
)
from diffc.stages.build import check_targets
from diffc.stages.build_and_measure import build_and_measure
from diffc.stages.by_block import choose_by_block
from diffc.stages.data import data_stage
from diffc.stages.decoder import decoder_stage
from diffc.stages.distill import distill_stage
from diffc.stages.distill_blocks import distill_blocks_stage, forget_blocks
from diffc.stages.distill_loop import distill_loop_stage, forget_loops
from diffc.stages.expected import expected_work
from diffc.stages.export import export_stages
from diffc.stages.finished import NEXT, keep_request, replaces_finished
from diffc.stages.fit_memory import fit_memory
from diffc.stages.fuse import FuseInputs, forget_fused, fuse_stage
from diffc.stages.importance import importance_stage
from diffc.stages.masked_decoder import masked_decoder_stage
from diffc.stages.needs import is_large
from diffc.stages.plan import plan_stage
from diffc.stages.preflight import PREFLIGHT, preflight, quick_checks
from diffc.stages.prune import CutModel, prune_stage
from diffc.stages.repair import repair_stage
from diffc.stages.request import EVALUATION, STOPS, Request
from diffc.stages.samples import evaluation_stage, samples_stage
from diffc.stages.text import text_exports
from diffc.stages.trajectories import trajectories_stage
from diffc.stages.vae_encoder import vae_encoder_stage
from diffc_export.cache import cache_folder
from diffc_export.disks import check_place, disk_errors
from diffc_runtime.machine.gpu import gpus
from diffc_runtime.machine.memory import return_large_blocks

T = TypeVar("T")
RunWork = Generator[StageEvent, None, Report]
ChainWork = Generator[StageEvent, None, list[StageResult[Outcome]]]


def run(request: Request) -> RunWork:
    """Run the chain up to ``request.stop``; returns the report, which is also in OUT.

    Raises CheckFailed, after the report is written, when an engine fails parity; InputError for a
    disk that takes or gives no more; RequestError where another diffc works in OUT.
    """
    with _alone_in(request.out):
        return (yield from _run(request))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Check OUT's place and the cache's, and keep other runs out; a launch is one run."""
    cache = cache_folder()
    with disk_errors(out, cache):
        check_place(out, "--out")
        check_place(cache, "DIFFC_CACHE")
        with out_lock(out, cache) if process_rank() == 0 else nullcontext():
            yield


def _run(request: Request) -> RunWork:
    source, recipe, out = request.source, request.recipe, request.out
    replaces = replaces_finished(source, recipe, out, request.over)
    yield StageEvent(PREFLIGHT, "started")
    if request.evaluation is not None:  # before the longer checks of the run that it belongs to
        quick_checks(source, request.evaluation, request.stop)
    notes = preflight(source, recipe, out, request.stop)
    if request.evaluation is not None:
        preflight(source, request.evaluation, out, request.stop)
    recipe, fitted = fit_memory(source, recipe, request.stop)
    recipe, chosen = choose_by_block(source, recipe)
    request, notes = replace(request, recipe=recipe), [*notes, *fitted, *chosen]
    if not gpus() and (recipe.memory is not None or is_large(source)):
        return_large_blocks()
    for note in notes:
        yield StageEvent(PREFLIGHT, "note", note=note)
    yield (yield from expected_work(source, recipe, out, request.stop, request.estimated))
    done = yield from (_aside(request) if replaces else _chain(request))
    if process_rank() == 0:
        write_lock(out, source, recipe, _stages(out, done, request.stop))
        write_notes(out, notes)
        keep_request(out, recipe, request.over)
        if request.evaluation is None:
            keep_seconds(source.digest, recipe, request.stop, done)
        _write_report(out, done, _commands(request))
    _wait_for_all_ranks()
    return _raise_if_failed(Report.read(out))


def _chain(request: Request, *, origin: Path | None = None) -> ChainWork:
    """Every stage up to ``request.stop``, with OUT's files in place; returns what was done."""
    out, recipe = request.out, request.recipe
    if process_rank() == 0 and not is_output(out):  # a run that is there keeps its lock until it is
        out.mkdir(parents=True, exist_ok=True)  # followed by another whole one
        write_lock(out, request.source, recipe, {})
    runner = StageRunner(out, cache_folder(), origin=origin)
    yield from _front(runner, request)
    if request.stop in ("build", "bench"):
        yield from build_and_measure(runner, recipe, request.stop, request.is_anew)
    return runner.done


def _aside(request: Request) -> ChainWork:
    """The same beside the finished run that OUT holds, which the whole new one then replaces."""
    out, aside = request.out, request.out / NEXT
    done = yield from _chain(replace(request, out=aside), origin=out)
    if process_rank() == 0:  # from here on the same command goes on
        write_lock(out, request.source, request.recipe, {})
        move_files(aside / LOGS, out / LOGS)
    # what is cached is placed; engines that torch runs name OUT's own model, and are built anew
    placed = yield from without_reused(_chain(replace(request, fresh=False)))
    if process_rank() == 0:
        clear_folder(aside)
    keys = {stage.name: stage.key for stage in done}
    later = {stage.name: stage for stage in placed if keys.get(stage.name) != stage.key}
    return [later.get(stage.name, stage) for stage in done]


def without_reused(work: Generator[StageEvent, None, T]) -> Generator[StageEvent, None, T]:
    """The events of some stages without those that were done before."""
    waiting: list[StageEvent] = []
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if event.kind == "started":
            waiting = [event]
        elif event.kind == "reused":
            waiting = []
        else:
            yield from waiting
            waiting = []
            yield event


def _stages(out: Path, done: Sequence[StageResult[Outcome]], stop: str) -> dict[str, str]:
    """The keys of this run's stages, and of earlier ones beyond ``stop`` that still follow from it.

    Nothing but the pictures follows from ``samples``. Evaluations stay for as long as they are of
    OUT/model; that of this run comes last.
    """
    now = {stage.name: stage.key for stage in done}
    earlier = read_lock(out)["stages"]
    newest = {name: now.pop(name) for name in list(now) if _is_evaluation(name)}
    evaluations = {name: key for name, key in earlier.items() if _is_evaluation(name)}
    others = {name: key for name, key in earlier.items() if name not in evaluations}
    evaluations = {name: evaluations[name] for name in evaluations if name not in newest} | newest
    same = all(earlier.get(name) == key for name, key in now.items() if name != "samples")
    if same and stop not in ("build", "bench"):
        return _following(out, {**others, **now, **evaluations})
    return {**now, **_following(out, evaluations)}


def _is_evaluation(stage: str) -> bool:
    return stage.startswith("eval-")


def _following(out: Path, stages: Mapping[str, str]) -> dict[str, str]:
    """Those of ``stages`` whose outcome is of what OUT holds now."""
    return {name: stages[name] for name in still_follows(out, stages)}


def _wait_for_all_ranks() -> None:
    """Under torchrun, the other processes wait here for the first one's report."""
    if is_launched():
        from diffc.data.processes import wait_for_all

        wait_for_all()


def finish(
    out: Path, recipe: Recipe, stop: str, *, fresh: bool = False, command: str | None = None
) -> RunWork:
    """Build (and measure) engines from an output folder's ONNX files alone, without the model.

    Args:
        out: The output folder.
        recipe: Every option.
        stop: The last stage wanted, ``build`` or ``bench``.
        fresh: True does again what ``stop`` names, whatever is cached: ``bench`` builds nothing
            anew.
        command: How to say the run again, for the report; None: it is not known.
    """
    read_lock(out)
    with _alone_in(out):
        return (yield from _finish(out, recipe, stop, fresh=fresh, command=command))


def _finish(out: Path, recipe: Recipe, stop: str, *, fresh: bool, command: str | None) -> RunWork:
    lock = read_lock(out)
    stage_records(out, lock["stages"])
    check_onnx(out)
    check_targets(recipe.build)
    runner = StageRunner(out, cache_folder())
    yield from build_and_measure(runner, recipe, stop, lambda part: fresh and part == stop)
    stages = {**_still_true(lock["stages"], recipe), **{d.name: d.key for d in runner.done}}
    stages = _following(out, stages)
    write_lock_of(out, lock["model"], _with_targets(out, recipe), stages)
    return _raise_if_failed(_write_report(out, runner.done, commands_with(out, command)))


def _front(runner: StageRunner, request: Request) -> Generator[StageEvent, None, None]:
    """The half that needs the model: from the data to OUT/onnx."""
    source, recipe, stop = request.source, request.recipe, STOPS.index(request.stop)
    done = yield from compress(runner, request)
    if done is None:
        return
    clean, distilled = done.clean, done.distilled
    samples = samples_stage(source, recipe, clean, distilled)
    wanted = request.evaluation or recipe
    other = samples if wanted is recipe else samples_stage(source, wanted, clean, distilled)
    is_own = other.key == samples.key
    runner.fresh = request.is_anew(EVALUATION if is_own and wanted is not recipe else "distill")
    yield from runner.do(samples)
    if not is_own:
        runner.fresh = request.is_anew(EVALUATION)
        yield from runner.do(evaluation_stage(other))
    if stop < STOPS.index("export"):
        return
    yield from export(runner, request, done)


@dataclass(frozen=True)
class Compressed:
    """The stages that a compressed model came from.

    Attributes:
        clean: The data.
        plan: The plan.
        distilled: The model.
    """

    clean: StageResult[DataOutcome]
    plan: StageResult[PlanOutcome]
    distilled: StageResult[DistillOutcome | FuseOutcome]


def compress(
    runner: StageRunner, request: Request
) -> Generator[StageEvent, None, Compressed | None]:
    """From the data to the compressed model; None where ``request.stop`` comes before it."""
    source, recipe, stop = request.source.base, request.recipe, STOPS.index(request.stop)
    runner.fresh = request.is_anew("plan")
    clean = yield from runner.do(data_stage(source, recipe))
    importance = yield from runner.do(importance_stage(source, recipe, clean))
    spent = clean.seconds + importance.seconds
    plan = yield from runner.do(plan_stage(source, recipe, importance, spent))
    if stop < STOPS.index("prune"):
        return None
    runner.fresh = request.is_anew("prune")
    prune = prune_stage(source, recipe, plan)
    pruned = yield from runner.do(prune)
    if stop < STOPS.index("distill"):
        return None
    runner.fresh = request.is_anew("distill")
    cut = CutModel(clean, prune.inputs.plan_file, pruned)
    repaired = yield from runner.do(repair_stage(source, recipe, cut))
    blocks = yield from _blocks_alone(runner, request, cut, repaired)
    distill = distill_stage(source, recipe, cut, repaired, blocks)
    distilled = yield from _for_loops(runner, request, clean, (yield from runner.do(distill)))
    if request.source.adapted:
        fused = fuse_stage(request.source, recipe, cut.plan_file, distilled)
        return (yield from _with_loras(runner, request, fused, Compressed(clean, plan, distilled)))
    if process_rank() == 0:
        forget_fused(runner.out)
    return Compressed(clean, plan, distilled)


def _blocks_alone(
    runner: StageRunner,
    request: Request,
    cut: CutModel,
    repaired: StageResult[RepairOutcome],
) -> Generator[StageEvent, None, StageResult[BlockLocalOutcome] | None]:
    """What each block learns alone; None where the recipe has no steps for it."""
    source, recipe = request.source.base, request.recipe
    if recipe.distill.block_local.steps:
        return (yield from runner.do(distill_blocks_stage(source, recipe, cut, repaired)))
    if process_rank() == 0:
        forget_blocks(runner.out)
    return None


def _with_loras(
    runner: StageRunner,
    request: Request,
    fuse: Stage[FuseInputs, FuseOutcome],
    done: Compressed,
) -> Generator[StageEvent, None, Compressed]:
    """The same with the LoRAs that come after the compression.

    Where they change text encoders, prompts have other conditions, and the data is made again.
    """
    source, recipe = request.source, request.recipe
    fused = yield from runner.do(fuse)
    clean = done.clean
    if any(lora.components - {DENOISER} for lora in source.adapted):
        clean = yield from runner.do(data_stage(source, recipe))
    return Compressed(clean, done.plan, fused)


def export(
    runner: StageRunner, request: Request, done: Compressed
) -> Generator[StageEvent, None, None]:
    """Export both sides into OUT/onnx, and the VAE and the text encoders where there are some."""
    source, recipe = request.source, request.recipe
    runner.fresh = request.is_anew("export")
    for stage in export_stages(source, recipe, done.clean, done.plan, done.distilled):
        yield from runner.do(stage)
    yield from runner.do_if_any(decoder_stage(source, recipe))
    yield from runner.do_if_any(vae_encoder_stage(source, recipe))
    yield from runner.do_if_any(masked_decoder_stage(source, recipe))
    yield from text_exports(runner, source, recipe)


def _for_loops(
    runner: StageRunner,
    request: Request,
    clean: StageResult[DataOutcome],
    distilled: StageResult[DistillOutcome],
) -> StageWork[DistillOutcome]:
    """The student of the recipe's loops, or the one of all noise levels where that is the aim."""
    source, recipe = request.source.base, request.recipe
    if recipe.distill.aim != "loop":
        if process_rank() == 0:
            forget_loops(runner.out)
        return distilled
    visits = trajectories_stage(source, recipe, clean)
    trajectories = yield from runner.do(visits)
    return (
        yield from runner.do(
            distill_loop_stage(source, recipe, visits.inputs, distilled, trajectories)
        )
    )


def _still_true(stages: Mapping[str, str], recipe: Recipe) -> dict[str, str]:
    """Earlier stages without the choices of a precision for targets that are built anew."""
    choices = {f"choose-{name}" for name in recipe.build.target}
    return {name: key for name, key in stages.items() if name not in choices}


def _with_targets(out: Path, recipe: Recipe) -> Recipe:
    """The folder's own recipe, its targets joined by those that were added, each with its own."""
    locked = locked_recipe(out)
    targets = tuple(dict.fromkeys((*locked.build.target, *recipe.build.target)))
    build = locked.build.model_copy(update={"target": targets, "each": recipe.build.each})
    return locked.model_copy(update={"build": build, "measure": recipe.measure})


def _commands(request: Request) -> Commands:
    """The commands that make OUT, once ``request`` is done; an evaluation changes no run."""
    if request.over == "goes on":
        added = request.command if request.evaluation is None else None
        return commands_with(request.out, added)
    return Commands(request.command)


def _write_report(out: Path, done: Sequence[StageResult[Outcome]], commands: Commands) -> Report:
    from diffc.report.writing import write_report

    return write_report(collect(out, done, commands), out)


def _raise_if_failed(report: Report) -> Report:
    for result in report.failed:
        assert result.parity is not None
        error = ParityFailed(
            f"{result.target}: the engine does not compute what torch computes: "
            f"{result.parity.reason or f'relative error {result.parity.rel_l2}'}",
            hint="the report has the figures; try --precision fp32 or another target",
        )
        error.report = report
        raise error
    return report


class ParityFailed(CheckFailed):
    """An engine failed parity; ``report`` holds what was measured all the same."""

    report: Report


def source_of(out: Path, allow_pickle: bool = False) -> Source:
    """The dense model that an output folder was made from. Raises InputError when it changed."""
    from diffc.models.source import find_source

    lock = read_lock(out)
    locked, recipe = lock["model"], lock["recipe"]
    name = locked["name"] if is_shipped(locked["name"]) else locked["folder"]
    source = replace(find_source(name, allow_pickle=allow_pickle), name=locked["name"])
    source = with_loras(source, recipe.get("loras", ()), recipe.get("adapted_loras", ()))
    if source.digest != locked["digest"]:
        also = " with its LoRAs" if source.all_loras else ""
        raise InputError(
            f"the model at {source.folder}{also} is not the one that {out} was made from any more",
            hint="compile it into a new --out",
        )
    return source
