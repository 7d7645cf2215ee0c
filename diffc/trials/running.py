"""The search: what is measured before any training, the trials in their order, the one OUT.

before   every network is cut and repaired, and every loop timed; the dense model's too
trials   the candidates that can still win are trained (contest.py says which), and judged
times    all that was trained, and the dense model's loops, timed in turn in one block
OUT      the winner's run, most of whose stages the trials have done
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

from diffc.cache_contents import TRIALS
from diffc.errors import CheckFailed
from diffc.locks import out_lock
from diffc.measure.frontier.results import Point, PointFigure, ratio
from diffc.measure.frontier.standing import difference
from diffc.measure.quality.ssim import METRIC as SSIM_METRIC
from diffc.output import is_output
from diffc.runner import StageEvent, StageRunner
from diffc.stages.order import run, without_reused
from diffc.stages.request import Request
from diffc.trials.blocks import Block, Meter, Ready, prepare
from diffc.trials.contest import Contest, Entry, Values
from diffc.trials.distances import METRIC, times_dense
from diffc.trials.goals import (
    COSTS,
    DISTANCE,
    LATENCY,
    MEMORY,
    SPEEDUP,
    SSIM,
    figure,
    value_words,
)
from diffc.trials.outcome import Parts, search_result
from diffc.trials.request import RESULT, SearchRequest, check, request_key, space_of
from diffc.trials.results import SearchResult, TrialRecord
from diffc.trials.space import Choice, Space, word, words_of
from diffc.trials.trials import (
    Kind,
    PlannedTrial,
    build_engines,
    distinct,
    has_short,
    run_trial,
    trial_of,
)
from diffc.trials.workers import Workers, workers_of
from diffc_export.cache import cache_folder
from diffc_export.disks import check_place
from diffc_export.events import map_events
from diffc_export.targets import on_gpu
from diffc_runtime.files import write_text

SEARCH = "search"
"""The name of what happens between stages, in events."""

SearchWork = Generator[StageEvent, None, SearchResult]


class GoalsMissed(CheckFailed):
    """Nothing that was measured reaches the goals; ``result`` holds what was measured."""

    result: SearchResult


def search(request: SearchRequest) -> SearchWork:
    """Run the trials that can win, and compile the winner into OUT.

    Raises:
        GoalsMissed: Nothing that was measured reaches the goals. OUT is left as it was.
        RequestError, InputError, UnavailableError: As ``preflight`` says, before any work.
    """
    space = space_of(request)
    home = _home(request, space)
    check_place(cache_folder(), "DIFFC_CACHE")
    with out_lock(home, cache_folder()):  # the same search twice would share its trials' folders
        result = yield from try_points(request, space)
        if result.chosen is None:
            shutil.rmtree(home, ignore_errors=True)
            raise _missed(result)
        yield from _compile(request, space, result)
        shutil.rmtree(home, ignore_errors=True)
    return result


def try_points(request: SearchRequest, space: Space) -> SearchWork:
    """Run the trials that can win: everything but OUT.

    Args:
        request: What is wanted.
        space: Of ``space_of`` for it.

    Raises:
        RequestError, InputError, UnavailableError: As ``preflight`` says, before any work.
    """
    key = request_key(request, space)
    for note in check(request, space, key):
        yield StageEvent(SEARCH, "note", note=note)
    (target,) = space.recipe.build.target
    workers = workers_of(request.workers, gpus=on_gpu(target))
    try:
        return (yield from _Search(request, space, _home(request, space), workers).run(key))
    finally:
        workers.close()


def _home(request: SearchRequest, space: Space) -> Path:
    """The folder of the trials while the search runs."""
    return cache_folder() / TRIALS / request_key(request, space)[:32]


def _is_same(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, ValueError):
        return False


def _compile(
    request: SearchRequest, space: Space, result: SearchResult
) -> Generator[StageEvent, None, None]:
    assert result.chosen is not None
    chosen = tuple(result.chosen.items())
    yield _heading(f"the winner, {words_of(chosen)}, into {request.out}")
    recipe = space.apply(chosen)
    winner = Request(request.source, recipe, request.out, command=request.command, over="replaces")
    text, path = result.model_dump_json(indent=1) + "\n", request.out / RESULT

    def keep(event: StageEvent) -> StageEvent:
        """Say in OUT whose run it is, as soon as there is one: a killed search goes on there."""
        if is_output(request.out) and not _is_same(path, text):
            write_text(path, text)
        return event

    yield from map_events(run(winner), keep)


def _missed(result: SearchResult) -> GoalsMissed:
    nearest = result.candidate(result.nearest)
    words = " ".join((result.nearest or {}).values())
    if nearest is not None:
        there = f"; the nearest, {words}, has {', '.join(nearest.missed)}"
    else:
        there = f"; the nearest is {words}" if words else ""
    error = GoalsMissed(
        f"nothing that was measured has {' and '.join(result.goal_words)}{there}",
        hint=f"{result.command}, with this search's other options, makes it" if words else None,
    )
    error.result = result
    return error


def _heading(words: str) -> StageEvent:
    return StageEvent(SEARCH, "heading", note=words)


def _note(words: str) -> StageEvent:
    return StageEvent(SEARCH, "note", note=words)


class _Search:
    """The state of one search."""

    def __init__(self, request: SearchRequest, space: Space, home: Path, workers: Workers) -> None:
        self._request, self._space, self._home, self._workers = request, space, home, workers
        (self._target,) = space.recipe.build.target
        self._goals = request.goals
        self._records: list[TrialRecord] = []
        self._ready: dict[Choice, Ready] = {}
        self._figures: dict[str, dict[str, PointFigure]] = {}

    def run(self, key: str) -> Generator[StageEvent, None, SearchResult]:
        """Everything but OUT."""
        yield _heading(
            f"{self._space.size_words()}: {len(self._space.candidates)} points; wanted: "
            f"{' and '.join(self._goals.words())}"
        )
        yield from self._before()
        yield from self._short_trials()
        while wanted := self._contest.next_trials(self._workers.count):
            yield from self._workers.train([self._planned(one, "whole") for one in wanted])
            for choice in wanted:
                yield from self._whole_trial(choice)
        block = yield from self._times()
        parts = Parts(self._space, self._contest, self._meter, block, self._records)
        return search_result(parts, self._request.source, self._request.out, key)

    def _before(self) -> Generator[StageEvent, None, None]:
        """Everything that needs no training."""
        networks = distinct([self._space.network(one) for one in self._space.candidates])
        yield _heading(f"before any training: {len(networks)} networks, every loop timed")
        ready = []
        for choice in networks:
            ready.append((yield from self._trial(choice, "untrained")))
        runner = StageRunner(self._home / "measured", cache_folder())
        self._meter: Meter = yield from prepare(
            self._request.source, self._space, ready[0], runner, self._goals
        )
        block = yield from self._meter.before(ready, self._goals)
        self._remember(block.dense)
        entries = [self._entry(choice, block, ready) for choice in self._space.candidates]
        self._contest = Contest(
            entries, self._goals, self._space.no_worse, spare=self._request.spare
        )
        yield _note(_left_words(self._contest))

    def _planned(self, choice: Choice, kind: Kind) -> PlannedTrial:
        recipe = self._space.apply(choice)
        return trial_of(self._request.source, recipe, choice, kind, self._home)

    def _trial(self, choice: Choice, kind: Kind) -> Generator[StageEvent, None, Ready]:
        done = yield from without_reused(run_trial(self._planned(choice, kind)))
        recipes = {
            precision: self._space.apply((*choice, ("precision", precision)))
            for precision in self._space.values["precision"]
        }
        ready = Ready(done, (yield from build_engines(done, recipes, self._target)))
        if kind != "untrained":
            self._records.append(done.record)
        return ready

    def _entry(self, choice: Choice, block: Block, ready: Sequence[Ready]) -> Entry:
        trial, precision = self._space.trained(choice), word(choice, "precision")
        point = block.points.get(choice)
        if point is None or point.latency_ms is None:
            own = next(one for one in ready if one.done.trial.choice == self._space.network(choice))
            reason = own.engines[precision].absent if point is None else point.absent
            return Entry(choice, trial, float("inf"), {}, out=f"measured: {reason}")
        costs = self._costs(point, block)
        dense = next(
            (one for one in block.dense if (one.variant, one.loop) == (precision, point.loop)), None
        )
        is_bound = self._space.recipe.distill.aim != "loop"
        return Entry(
            choice,
            trial,
            point.latency_ms.p50,
            costs,
            out=point.absent or self._missed_costs(costs),
            before=self._quality(point) if is_bound else None,
            most=self._quality(dense) if is_bound and dense is not None else None,
        )

    def _costs(self, point: Point, block: Block) -> Values:
        assert point.latency_ms is not None
        faster = None if block.reference is None else ratio(block.reference, point)
        return {
            LATENCY: point.latency_ms.p50,
            SPEEDUP: None if faster is None else faster.median,
            MEMORY: block.outcome.memory.get(f"{point.side} {point.variant}"),
        }

    def _missed_costs(self, costs: Values) -> str | None:
        """Why a candidate costs too much; None where it does not."""
        missed = self._goals.only(COSTS).shortfalls(costs)
        words = ", ".join(value_words(name, costs.get(name)) for name in missed)
        return f"measured: {words}" if words else None

    def _quality(self, point: Point) -> Values:
        """The figures of a point's images by the goals' names."""
        ssim = point.figures.get(SSIM_METRIC.name)
        dense = self._meter.reference.result.distance
        return {
            SSIM: None if ssim is None else ssim.value,
            DISTANCE: times_dense(point.figures.get(METRIC), dense),
        }

    def _remember(self, points: Iterable[Point]) -> None:
        self._figures |= {point.name: point.figures for point in points if point.figures}

    def _short_trials(self) -> Generator[StageEvent, None, None]:
        """Where the best is wanted: give up trainings that are clearly behind after a short one."""
        trials = self._contest.live_trials()
        if self._goals.wants_fastest or len(trials) < 2 or not has_short(self._space.recipe):
            return
        yield _heading(f"a short training of each of {len(trials)}, to give up those behind")
        points: dict[Choice, Point] = {}
        yield from self._workers.train([self._planned(choice, "short") for choice in trials])
        for choice in trials:
            ready = yield from self._trial(choice, "short")
            mine = [one for one in self._contest.live() if one.trial == choice]
            block = yield from self._meter.judge(ready, [one.choice for one in mine])
            for entry in mine:
                points[entry.choice] = block.points[entry.choice]
                entry.short = self._quality(block.points[entry.choice])
        for choice, words in _clearly_behind(self._contest, points).items():
            self._contest.behind[choice] = words
            yield _note(f"{words_of(choice)} is given up: {words}")

    def _whole_trial(self, choice: Choice) -> Generator[StageEvent, None, None]:
        number = 1 + sum(not one.short for one in self._records)
        most = number - 1 + len(self._contest.live_trials())
        yield _heading(f"trial {number} of at most {most}: {words_of(choice)}")
        ready = yield from self._trial(choice, "whole")
        self._ready[choice] = ready
        mine = [e for e in self._contest.entries if e.trial == choice and e.out is None]
        block = yield from self._meter.judge(ready, [one.choice for one in mine])
        self._remember(block.points.values())
        for entry in mine:
            point = block.points.get(entry.choice)
            if point is None or point.absent is not None:
                engine = ready.engines[word(entry.choice, "precision")]
                entry.out = f"measured: {engine.absent if point is None else point.absent}"
            else:
                entry.trained = self._quality(point)
        yield _note(_left_words(self._contest))

    def _times(self) -> Generator[StageEvent, None, Block]:
        """One block for everything that was trained; the times that count."""
        yield _heading("the times of all that was trained, in turn with the dense model's loops")
        trained = [
            (ready, [e.choice for e in self._contest.entries if e.trained and e.trial == choice])
            for choice, ready in self._ready.items()
        ]
        block = yield from self._meter.times(trained)
        points = {choice: self._with_figures(one) for choice, one in block.points.items()}
        dense = [self._with_figures(one) for one in block.dense]
        for entry in self._contest.entries:
            point = points.get(entry.choice)
            if point is not None and point.latency_ms is not None:
                memory = entry.costs.get(MEMORY)
                entry.ms = point.latency_ms.p50
                entry.costs = {**self._costs(point, block), MEMORY: memory}
                if missed := self._missed_costs(entry.costs):
                    entry.out = missed
        return Block(block.outcome, points, dense, block.reference)

    def _with_figures(self, point: Point) -> Point:
        return point.model_copy(update={"figures": self._figures.get(point.name, {})})


def _left_words(contest: Contest) -> str:
    """'11 points may still win, in 2 trainings; best so far: ...'."""
    live, trials = contest.live(), contest.live_trials()
    best = contest.best()
    words = f"{len(live)} points may still win, in {len(trials)} trainings" if live else "all known"
    if best is None:
        return words
    ssim = (best.trained or {}).get(SSIM)
    shown = "" if ssim is None else f" (SSIM {ssim:.3f})"
    return f"{words}; best so far: {best.name} in {figure(LATENCY, best.ms)}{shown}"


def _clearly_behind(contest: Contest, points: Mapping[Choice, Point]) -> dict[Choice, str]:
    """Trials whose best point is behind the leader's, image by image, beyond the 95 % interval."""
    firsts: dict[Choice, Entry] = {}
    for entry in contest.live():
        if entry.short is None or SSIM_METRIC.name not in points[entry.choice].figures:
            continue
        first = firsts.get(entry.trial)
        if first is None or (entry.short[SSIM] or 0) > ((first.short or {})[SSIM] or 0):
            firsts[entry.trial] = entry
    if not firsts:
        return {}
    leader = max(firsts.values(), key=lambda one: (one.short or {})[SSIM] or 0)
    behind = {}
    for trial, entry in firsts.items():
        gap = difference(points[leader.choice], points[entry.choice], SSIM_METRIC)
        if entry is not leader and gap is not None and gap.ci95 and gap.ci95[0] > 0:
            behind[trial] = (
                f"behind {leader.name} after a short training, SSIM "
                f"{(entry.short or {})[SSIM]:.3f} against {(leader.short or {})[SSIM]:.3f}"
            )
    return behind
