"""How a run goes: stages in order, a content-addressed cache, resume, events.

A stage is a name, a version, the inputs that decide its outcome, and a generator that writes files
into a folder. Its key is the hash of name, version, inputs and the versions of the packages it
uses, so a stage is done once for a key and never again:

    done/NAME-KEY/           in the cache: its files and stage.json (hashes, seconds, result),
                             renamed into place
    work/NAME-KEY/           there too: ``out`` while it runs; ``scratch`` outlives a kill
    OUT/...                  the files a user wants, as copies of their own (placing.py)
    OUT/.diffc/NAME.json     stage.json again, so that OUT alone is enough on another machine

Nothing is half there: files come to their final name by rename, after they were written whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from diffc.errors import RequestError, UnavailableError
from diffc.launch import process_rank
from diffc.placing import clear_folder, place, place_file
from diffc.torch_state import own_state
from diffc_export.disks import disk_errors
from diffc_export.events import Progress, Work
from diffc_runtime.files import file_digest, rename_folder, temporary_folder, write_text

T = TypeVar("T")
STATE = ".diffc"
LOGS = "logs"
_POLL_SECONDS, _WARNING_SECONDS = 0.2, 60.0
_SILENCE_SECONDS, _PATIENCE_SECONDS = 600.0, 12 * 3600.0
"""How long a process waits for the first one's result: without a sign of it, and with one."""
_SHARED_CACHE = "all processes of a launch must share that folder (DIFFC_CACHE)"
MANIFEST = "stage.json"


@dataclass(frozen=True)
class Room:
    """Where a stage works. out: becomes its result. scratch: survives a kill, then is removed.

    logs: OUT/logs, for what is watched while the stage runs and is no part of its result.
    """

    out: Path
    scratch: Path
    logs: Path


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    version: raised whenever the code's outcome changes for the same inputs.
    inputs: everything else that decides the outcome, as JSON.
    run: writes into ``room.out`` and returns a small JSON result.
    places: file or folder in ``room.out`` -> its place in OUT.
    packages: distributions whose versions are part of the key.
    collective: under torchrun or accelerate every process runs it; otherwise the first one does.
    """

    name: str
    version: int
    inputs: Mapping[str, Any]
    run: Callable[[Room], Work[dict[str, Any]]]
    places: Mapping[str, str] = field(default_factory=dict)
    packages: Sequence[str] = ()
    collective: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """``inputs`` as JSON has them: what the outcome follows from, for diffc/follows.py."""
        value: dict[str, Any] = json.loads(json.dumps(self.inputs, default=str))
        return value

    @property
    def key(self) -> str:
        """sha256 of everything that decides the outcome."""
        versions = {name: package_version(name) for name in self.packages}
        value = [self.name, self.version, self.inputs, versions]
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """A stage that is done. folder: its files in the cache. cached: it was done before this run."""

    name: str
    key: str
    folder: Path
    result: Mapping[str, Any]
    seconds: float
    peak_rss_bytes: int
    cached: bool


@dataclass(frozen=True)
class StageEvent:
    """What a run tells while it goes.

    kind: ``note`` and ``passed`` are of the checks before the first stage alone.
    """

    stage: str
    kind: Literal["started", "progress", "finished", "reused", "note", "passed"]
    progress: Progress | None = None
    done: Done | None = None
    note: str = ""


StageWork = Generator[StageEvent, None, Done]


@dataclass(frozen=True)
class _Manifest:
    name: str
    key: str
    files: dict[str, str]
    places: dict[str, str]
    result: dict[str, Any]
    seconds: float
    peak_rss_bytes: int
    inputs: dict[str, Any] = field(default_factory=dict)


class Runner:
    """Runs stages into one output folder, reusing what is in the cache or in the folder itself."""

    def __init__(self, out: Path, cache: Path, *, fresh: bool = False) -> None:
        self.out, self.cache, self.fresh = out, cache, fresh
        self.done: list[Done] = []

    def do(self, stage: Stage) -> StageWork:
        """Do ``stage``, or reuse it; its files are in OUT when this returns."""
        yield StageEvent(stage.name, "started")
        with disk_errors(self.out, self.cache):
            if process_rank() == 0:
                done_now = stage.key in {done.key for done in self.done}
                found = None if self.fresh and not done_now else self._reuse(stage)
                done = found or (yield from self._run(stage))
                self._place(stage, done)
            else:
                done = yield from self._follow(stage)
        self.done.append(done)
        yield StageEvent(stage.name, "reused" if done.cached else "finished", done=done)
        return done

    def _folder(self, stage: Stage) -> Path:
        return self.cache / "done" / f"{stage.name}-{stage.key[:32]}"

    def _reuse(self, stage: Stage) -> Done | None:
        folder = self._folder(stage)
        if not (folder / MANIFEST).exists():
            self._adopt(stage)
        manifest = _read_manifest(folder / MANIFEST)
        if manifest is None or manifest.key != stage.key:
            return None
        if any(_digest_or_none(folder / name) != sha for name, sha in manifest.files.items()):
            shutil.rmtree(folder, ignore_errors=True)  # damaged: it is made anew
            return None
        if manifest.inputs != stage.recorded:  # written by an older diffc; the key is the same
            _write_json(folder / MANIFEST, asdict(replace(manifest, inputs=stage.recorded)))
        return _done(manifest, folder, cached=True)

    def _adoptable(self, stage: Stage) -> _Manifest | None:
        """The record of a stage that OUT holds whole (copied from another machine)."""
        manifest = _read_manifest(self.out / STATE / f"{stage.name}.json")
        if manifest is None or manifest.key != stage.key:
            return None
        for name, sha in manifest.files.items():
            home = place_of(name, manifest.places)
            if home is None or _digest_or_none(self.out / home) != sha:
                return None
        return manifest

    def _adopt(self, stage: Stage) -> None:
        """Take such a stage into the cache."""
        manifest = self._adoptable(stage)
        if manifest is None:
            return
        with temporary_folder(self.cache / "done") as folder:
            for name in manifest.files:
                place_file(self.out / str(place_of(name, manifest.places)), folder / name)
            _write_json(folder / MANIFEST, asdict(manifest))
            rename_folder(folder, self._folder(stage))

    def _run(self, stage: Stage) -> Generator[StageEvent, None, Done]:
        work = self.cache / "work" / f"{stage.name}-{stage.key[:32]}"
        with _locked(work):
            if self.fresh:
                shutil.rmtree(work, ignore_errors=True)
            room = Room(work / "out", work / "scratch", self.out / LOGS)
            clear_folder(room.out)
            room.out.mkdir(parents=True)
            room.scratch.mkdir(parents=True, exist_ok=True)
            manifest = yield from self._timed(stage, room)
            _write_json(room.out / MANIFEST, asdict(manifest))
            rename_folder(room.out, self._folder(stage))
            shutil.rmtree(work, ignore_errors=True)
        return _done(manifest, self._folder(stage), cached=False)

    def _follow(self, stage: Stage) -> Generator[StageEvent, None, Done]:
        """What the other processes of a launch do: take part, then wait for the first one's result.

        They share its scratch (checkpoints), write nothing that is kept, and hold no lock.
        """
        work = self.cache / "work" / f"{stage.name}-{stage.key[:32]}"
        mine = work.with_name(f"{work.name}.rank{process_rank()}")
        if stage.collective and (self.fresh or not self._is_there(stage)):
            room = Room(mine, work / "scratch", self.out / LOGS)
            for folder in (room.out, room.scratch):
                folder.mkdir(parents=True, exist_ok=True)
            yield from self._timed(stage, room)
            shutil.rmtree(mine, ignore_errors=True)
        manifest = self._awaited(stage, work.parent / f"{work.name}.lock")
        return _done(manifest, self._folder(stage), cached=False)

    def _awaited(self, stage: Stage, lock: Path) -> _Manifest:
        """The first process's result; when it fails, the launch ends, and with it this process.

        Raises UnavailableError when it does not come.
        """
        started, warned = time.monotonic(), False
        while (manifest := _read_manifest(self._folder(stage) / MANIFEST)) is None:
            time.sleep(_POLL_SECONDS)
            waited, sign = time.monotonic() - started, lock.exists()
            if waited > (_PATIENCE_SECONDS if sign else _SILENCE_SECONDS):
                raise UnavailableError(self._silence(stage), hint=_SHARED_CACHE)
            if not (warned or sign) and waited > _WARNING_SECONDS:
                warned = True
                warnings.warn(f"{self._silence(stage)}: {_SHARED_CACHE}", stacklevel=2)
        return manifest

    def _silence(self, stage: Stage) -> str:
        return (
            f"process {process_rank()} waits for the first one's '{stage.name}' and sees no sign "
            f"of it in {self.cache}"
        )

    def _is_there(self, stage: Stage) -> bool:
        return (self._folder(stage) / MANIFEST).exists() or self._adoptable(stage) is not None

    def _timed(self, stage: Stage, room: Room) -> Generator[StageEvent, None, _Manifest]:
        reset_peak_rss()
        start = time.perf_counter()
        with _memory_errors(stage), own_state(needs_torch="torch" in stage.packages):
            result = yield from _events(stage, stage.run(room))
        seconds = time.perf_counter() - start
        files = {
            str(path.relative_to(room.out)): file_digest(path)
            for path in sorted(room.out.rglob("*"))
            if path.is_file()
        }
        return _Manifest(
            stage.name, stage.key, files, dict(stage.places), result, seconds, peak_rss(),
            stage.recorded,
        )  # fmt: skip

    def _place(self, stage: Stage, done: Done) -> None:
        """Put the stage's files into OUT. Killed on the way, OUT has no record of the stage."""
        record = self.out / STATE / f"{stage.name}.json"
        same_run = _read_manifest(record) == _read_manifest(done.folder / MANIFEST)
        if not same_run:
            record.unlink(missing_ok=True)
        for source, goal in stage.places.items():
            place(done.folder / source, self.out / goal, goal)
        place(done.folder / MANIFEST, record, STATE)


@contextmanager
def _memory_errors(stage: Stage) -> Iterator[None]:
    """Out of memory where no smaller batch helps, such as loading a model, in one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as failure:
        from diffc_runtime.machine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(failure):
            raise
        from diffc.data.batches import out_of_memory_error

        raise out_of_memory_error(f"doing the stage '{stage.name}'", failure) from failure


def _events(stage: Stage, work: Work[T]) -> Generator[StageEvent, None, T]:
    """The progress of ``work`` as events of ``stage``; returns its result."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield StageEvent(stage.name, "progress", progress)


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def reset_peak_rss() -> None:
    """Start counting this process's peak memory anew, where the kernel can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss() -> int:
    """Bytes: this process's peak resident memory since ``reset_peak_rss``."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _done(manifest: _Manifest, folder: Path, *, cached: bool) -> Done:
    return Done(
        manifest.name,
        manifest.key,
        folder,
        manifest.result,
        manifest.seconds,
        manifest.peak_rss_bytes,
        cached,
    )


def _read_manifest(path: Path) -> _Manifest | None:
    try:
        return _Manifest(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _digest_or_none(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None


def place_of(name: str, places: Mapping[str, str]) -> str | None:
    """Where in OUT a file of a stage lies; None where it is kept in the cache alone."""
    for source, goal in places.items():
        if name == source:
            return goal
        if name.startswith(f"{source}/"):
            return goal + name[len(source) :]
    return None


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One process at a time works on a key; the lock dies with its holder."""
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at once are the user's care there
        yield
        return
    with (work.parent / f"{work.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another diffc is doing '{work.name.rpartition('-')[0]}' with the same options",
                hint="wait for it to finish; its result is then reused",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{work.parent} is on a disk without locks ({error.strerror}): do not start the "
                "same run twice at once",
                stacklevel=2,
            )
        yield
