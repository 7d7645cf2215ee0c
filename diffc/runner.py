"""How a run goes: stages in order, a content-addressed cache, resume, events.

A stage is a name, a version, typed inputs that decide its outcome, and a function of these that
writes files into a folder. Its key is the hash of name, version, inputs and the versions of the
packages that it uses, so a stage is done once for a key and never again:

    done/NAME-KEY/           in the cache: its files and stage.json (hashes, seconds, result),
                             renamed into place
    work/NAME-KEY/           there too: ``out`` while it runs; ``scratch`` outlives a kill
    OUT/...                  the files a user wants, as copies of their own (placing.py)
    OUT/.diffc/NAME.json     stage.json again, so that OUT alone is enough on another machine

Nothing is half there: files come to their final name by rename, after they were written whole.

    stage_inputs.py    what a key holds of the inputs
    stage_records.py   stage.json
    stage_seconds.py   how long a stage took, interrupted attempts with it
    locks.py           one process at a time works on a key
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from diffc.cache_contents import used_file
from diffc.launch import process_rank, wait_for_first
from diffc.lean_imports import collect_as_usual
from diffc.locks import stage_lock, use_lock
from diffc.placing import clear_folder, place, place_file
from diffc.stage_inputs import check_unaltered, keyed
from diffc.stage_records import (
    RECORD,
    STATE,
    StageRecord,
    digest_or_none,
    files_of,
    place_of,
    read_record,
)
from diffc.stage_seconds import StageClock
from diffc.torch_state import own_state
from diffc_export.disks import disk_errors
from diffc_export.events import Progress, Work, map_events
from diffc_runtime.files import rename_folder, temporary_folder
from diffc_runtime.json_types import JsonDict
from diffc_runtime.machine.memory import peak_memory, reset_peak
from diffc_runtime.machine.packages import version as package_version

T = TypeVar("T")
LOGS = "logs"
_SHARED_CACHE = "all processes of a launch must share that folder (DIFFC_CACHE)"
_SHARED_OUT = "all processes of a launch must share that folder (--out)"


class Outcome(Protocol):
    """The result of a stage; ``diffc.stage_outcomes.StageOutcome`` is one."""

    def to_json(self) -> JsonDict:
        """The outcome as the stage's record holds it."""

    @classmethod
    def model_validate(cls: type[T], obj: object) -> T:
        """The outcome that a record holds."""


Inputs = TypeVar("Inputs")
Result = TypeVar("Result", bound=Outcome)
ResultOf = TypeVar("ResultOf", bound=Outcome, covariant=True)


@dataclass(frozen=True)
class StageFolder:
    """Where a stage works.

    Attributes:
        out: Becomes the stage's files.
        scratch: Survives a kill, then is removed.
        logs: OUT/logs, for what is watched while the stage runs and is no part of its files.
    """

    out: Path
    scratch: Path
    logs: Path


@dataclass(frozen=True)
class Stage(Generic[Inputs, Result]):
    """One piece of work.

    Attributes:
        name: The stage's; with its target and side where there are several.
        version: Raised whenever the code's outcome changes for the same inputs.
        inputs: Everything else that decides the outcome, and all that ``run`` is given: a frozen
            dataclass of what ``diffc.stage_inputs.keyed`` takes.
        run: A function of the inputs that writes into ``StageFolder.out``.
        outcome: The type of its result.
        places: File or folder in ``StageFolder.out`` -> its place in OUT.
        packages: Distributions whose versions are part of the key.
        collective: Under torchrun or accelerate every process runs it; otherwise the first one.
    """

    name: str
    version: int
    inputs: Inputs
    run: Callable[[Inputs, StageFolder], Work[Result]]
    outcome: type[Result]
    places: Mapping[str, str] = field(default_factory=dict)
    packages: Sequence[str] = ()
    collective: bool = False

    @cached_property
    def recorded(self) -> JsonDict:
        """``inputs`` as JSON: what the outcome follows from, for diffc/follows.py."""
        value = keyed(self.inputs)
        assert isinstance(value, dict)
        return value

    @cached_property
    def key(self) -> str:
        """sha256 of everything that decides the outcome."""
        versions = {name: package_version(name) for name in self.packages}
        value = [self.name, self.version, self.recorded, versions]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StageResult(Generic[ResultOf]):
    """A stage that is done. As an input of a later stage it stands for its key.

    Attributes:
        name: The stage's.
        key: The stage's.
        folder: Its files in the cache.
        result: What it found out.
        seconds: How long the work took, now or in an earlier run.
        peak_rss_bytes: The process's peak memory meanwhile.
        cached: It was done before this run.
    """

    name: str
    key: str
    folder: Path
    result: ResultOf
    seconds: float
    peak_rss_bytes: int
    cached: bool

    def keyed(self) -> str:
        """The key."""
        return self.key


@dataclass(frozen=True)
class Needs:
    """What a run needs, by an estimate.

    Attributes:
        training_bytes: Memory of each training, by its stage; empty for a run without.
        disk_bytes: Of the output folder.
    """

    training_bytes: Mapping[str, int]
    disk_bytes: int


@dataclass(frozen=True)
class StageEvent:
    """One moment of a run.

    Attributes:
        stage: The name of the stage, or of the checks before the first one.
        kind: ``note`` and ``passed`` are of the checks before the first stage alone; ``heading``
            begins a part of a run that has several.
        progress: How far the work is.
        done: The result, once the stage is done.
        note: A sentence for the user.
        expected: With ``passed``: the seconds that each stage will take, in order; empty where
            nothing tells.
        by: What tells that, in words.
        rough: With ``passed``: other programs ran while that was taken. Only how the stages'
            seconds compare with each other counts then.
        needs: What the run needs, where that was estimated.
    """

    stage: str
    kind: Literal["started", "progress", "finished", "reused", "note", "passed", "heading"]
    progress: Progress | None = None
    done: StageResult[Outcome] | None = None
    note: str = ""
    expected: Mapping[str, float] = field(default_factory=dict)
    by: str = ""
    rough: bool = False
    needs: Needs | None = None


StageWork = Generator[StageEvent, None, StageResult[Result]]


class StageRunner:
    """Runs stages into one output folder, reusing what is in the cache or in the folder itself.

    origin: another folder whose stages are reused as the folder's own are.
    """

    def __init__(
        self, out: Path, cache: Path, *, fresh: bool = False, origin: Path | None = None
    ) -> None:
        self.out, self.cache, self.fresh = out, cache, fresh
        self._origin = origin or out
        self._in_use: set[str] = set()
        self.done: list[StageResult[Outcome]] = []

    def do(self, stage: Stage[Inputs, Result]) -> StageWork[Result]:
        """Do ``stage``, or reuse it; its files are in OUT when this returns."""
        yield StageEvent(stage.name, "started")
        with disk_errors(self.out, self.cache):
            self._use(stage)
            is_anew = self.fresh and stage.key not in {done.key for done in self.done}
            if process_rank() == 0:
                reused = None if is_anew else self._reuse(stage)
                done = reused or (yield from self._run(stage))
                self._place(stage, done)
            else:
                done = yield from self._follow(stage, is_anew=is_anew)
        self.done.append(done)
        yield StageEvent(stage.name, "reused" if done.cached else "finished", done=done)
        return done

    def do_if_any(
        self, stage: Stage[Inputs, Result] | None
    ) -> Generator[StageEvent, None, StageResult[Result] | None]:
        """Do ``stage`` where there is one: not every model, target or recipe has each stage."""
        return None if stage is None else (yield from self.do(stage))

    def _use(self, stage: Stage[Inputs, Result]) -> None:
        """Keep ``diffc cache clean`` from the stage for as long as this runner lives."""
        path = used_file(self.cache, self._folder(stage).name)
        if path.name in self._in_use:
            return
        descriptor = use_lock(path)
        if descriptor is not None:
            self._in_use.add(path.name)
            weakref.finalize(self, os.close, descriptor)

    def _folder(self, stage: Stage[Inputs, Result]) -> Path:
        return self.cache / "done" / f"{stage.name}-{stage.key[:32]}"

    def _work_folder(self, stage: Stage[Inputs, Result]) -> Path:
        return self.cache / "work" / f"{stage.name}-{stage.key[:32]}"

    def _reuse(self, stage: Stage[Inputs, Result]) -> StageResult[Result] | None:
        folder = self._folder(stage)
        if not (folder / RECORD).exists():
            self._adopt(stage)
        result, record = self._whole(stage), read_record(folder / RECORD)
        if result is None or record is None:
            return None  # it stays until it is done again: the others of a launch look too
        if record.inputs != stage.recorded:  # written by an older diffc; the key is the same
            replace(record, inputs=stage.recorded).write(folder / RECORD)
        return result

    def _whole(self, stage: Stage[Inputs, Result]) -> StageResult[Result] | None:
        """The stage's result, where the cache holds all of it; all processes see the same."""
        folder = self._folder(stage)
        record = read_record(folder / RECORD)
        if record is None or record.key != stage.key:
            return None
        try:
            result = _result(stage, record, folder, cached=True)
        except ValueError:  # what it holds is no result of this stage
            return None
        return result if record.is_whole(folder) else None

    def _adoptable(self, stage: Stage[Inputs, Result]) -> StageRecord | None:
        """The record of a stage that OUT holds whole (copied from another machine)."""
        record = read_record(self._origin / STATE / f"{stage.name}.json")
        if record is None or record.key != stage.key:
            return None
        for name, sha in record.files.items():
            home = place_of(name, record.places)
            if home is None or digest_or_none(self._origin / home) != sha:
                return None
        return record

    def _adopt(self, stage: Stage[Inputs, Result]) -> None:
        """Take such a stage into the cache."""
        record = self._adoptable(stage)
        if record is None:
            return
        with temporary_folder(self.cache / "done", self._folder(stage).name) as folder:
            for name in record.files:
                place_file(self._origin / str(place_of(name, record.places)), folder / name)
            record.write(folder / RECORD)
            rename_folder(folder, self._folder(stage))

    def _run(
        self, stage: Stage[Inputs, Result]
    ) -> Generator[StageEvent, None, StageResult[Result]]:
        work = self._work_folder(stage)
        with stage_lock(work):
            if self.fresh:
                shutil.rmtree(work, ignore_errors=True)
            elif (self._folder(stage) / RECORD).exists() and (done := self._reuse(stage)):
                return done  # another process has done it since this one looked
            folder = StageFolder(work / "out", work / "scratch", self.out / LOGS)
            clear_folder(folder.out)
            folder.out.mkdir(parents=True)
            folder.scratch.mkdir(parents=True, exist_ok=True)
            clock = StageClock(work / "seconds", folder.scratch)
            record = yield from self._do_timed(stage, folder, clock)
            record.write(folder.out / RECORD)
            rename_folder(folder.out, self._folder(stage))
            shutil.rmtree(work, ignore_errors=True)
        return _result(stage, record, self._folder(stage), cached=False)

    def _follow(
        self, stage: Stage[Inputs, Result], *, is_anew: bool
    ) -> Generator[StageEvent, None, StageResult[Result]]:
        """What the other processes of a launch do: take part, then wait for the first one's result.

        They share its scratch (checkpoints), write nothing that is kept, and hold no lock.
        """
        work = self._work_folder(stage)
        mine = work.with_name(f"{work.name}.rank{process_rank()}")
        if stage.collective and (is_anew or not self._is_there(stage)):
            folder = StageFolder(mine, work / "scratch", self.out / LOGS)
            for path in (folder.out, folder.scratch):
                path.mkdir(parents=True, exist_ok=True)
            yield from self._do_timed(stage, folder, StageClock(None, folder.scratch))
            shutil.rmtree(mine, ignore_errors=True)
        done = self._wait_for_first(stage, work.parent / f"{work.name}.lock")
        return replace(done, cached=False)

    def _wait_for_first(self, stage: Stage[Inputs, Result], lock: Path) -> StageResult[Result]:
        """The first process's result, once its files are in OUT: later stages look there."""
        wait = partial(wait_for_first, what=stage.name)
        done = wait(lambda: self._whole(stage), lock, where=self.cache, hint=_SHARED_CACHE)
        placed = partial(self._placed, stage)
        wait(placed, self.out / STATE, where=self.out, hint=_SHARED_OUT)
        return done

    def _placed(self, stage: Stage[Inputs, Result]) -> StageRecord | None:
        record = read_record(self.out / STATE / f"{stage.name}.json")
        return record if record is not None and record.key == stage.key else None

    def _is_there(self, stage: Stage[Inputs, Result]) -> bool:
        """Whether the first process reuses the stage; what is damaged it does again, with all."""
        if (self._folder(stage) / RECORD).exists():
            return self._whole(stage) is not None
        return self._adoptable(stage) is not None

    def _do_timed(
        self, stage: Stage[Inputs, Result], folder: StageFolder, clock: StageClock
    ) -> Generator[StageEvent, None, StageRecord]:
        """Do the work; returns its record."""

        def event(step: Progress) -> StageEvent:
            clock.tick()
            return StageEvent(stage.name, "progress", step)

        collect_as_usual()
        reset_peak()
        with clock, _memory_errors(stage.name), own_state(needs_torch="torch" in stage.packages):
            result = yield from map_events(stage.run(stage.inputs, folder), event)
        gc.collect()  # an engine that is left in a cycle would be beside those of the next stage
        check_unaltered(stage.inputs)
        seconds = clock.seconds
        return StageRecord(
            name=stage.name,
            key=stage.key,
            files=files_of(folder.out),
            places=dict(stage.places),
            # as it is read back: what follows must not depend on whether this process found it out
            result=json.loads(json.dumps(result.to_json(), sort_keys=True)),
            seconds=seconds,
            peak_rss_bytes=peak_memory(),
            inputs=stage.recorded,
        )

    def _place(self, stage: Stage[Inputs, Result], done: StageResult[Result]) -> None:
        """Put the stage's files into OUT. Killed on the way, OUT has no record of the stage."""
        path, record = self.out / STATE / f"{stage.name}.json", read_record(done.folder / RECORD)
        assert record is not None
        record = replace(record, places=dict(stage.places))  # an earlier run's may be others
        is_there = read_record(path) == record
        if not is_there:
            path.unlink(missing_ok=True)
        for source, goal in stage.places.items():
            place(done.folder / source, self.out / goal, goal)
        if not is_there:
            record.write(path)


@contextmanager
def _memory_errors(name: str) -> Iterator[None]:
    """Out of memory where no smaller batch helps, such as loading a model, in one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as failure:
        from diffc_runtime.machine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(failure):
            raise
        from diffc.data.batches import out_of_memory_error

        raise out_of_memory_error(f"doing the stage '{name}'", failure) from failure


def _result(
    stage: Stage[Inputs, Result], record: StageRecord, folder: Path, *, cached: bool
) -> StageResult[Result]:
    return StageResult(
        record.name,
        record.key,
        folder,
        stage.outcome.model_validate(record.result),
        record.seconds,
        record.peak_rss_bytes,
        cached,
    )
