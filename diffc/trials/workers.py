"""Who does the trainings: this process, or tasks of a Ray cluster.

A worker does what a trial does up to the ONNX files, in the cache of its machine. A cache that the
searching process does not share sends its stages back, so that the search itself always goes on
with cached stages, and measures all engines in one block on one machine.
"""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from diffc.cache_contents import TRIALS
from diffc.errors import DiffcError, RequestError, UnavailableError
from diffc.locks import StageBusy, out_lock
from diffc.runner import StageEvent
from diffc.trials.space import Choice, words_of
from diffc.trials.trials import Kind, PlannedTrial, run_trial, trial_of
from diffc_export.cache import cache_folder
from diffc_export.events import drain
from diffc_runtime.files import rename_folder, temporary_folder, write_text
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from diffc.models.source import Source

LOCAL = "ray"
_SCHEME = "ray://"
_CONNECT_SECONDS = 3.0
_RETRIES = 3
_BUSY_SECONDS = 1.0


class Workers(Protocol):
    """Who does trainings.

    Attributes:
        count: How many at once.
    """

    count: int

    def train(self, trials: Sequence[PlannedTrial]) -> Generator[StageEvent, None, None]:
        """Have the stages of all these trials in this process's cache, or leave them to it."""

    def close(self) -> None:
        """End what was started."""


class Here:
    """This process trains, one trial after the other, when the search comes to it."""

    count = 1

    def train(self, trials: Sequence[PlannedTrial]) -> Generator[StageEvent, None, None]:
        """Leave it to the search."""
        yield from ()

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True)
class Task:
    """A trial as another process is given it.

    Attributes:
        source: The model; its folder is the same on every machine.
        recipe: Of the whole training, as JSON.
        choice: The values that it is for.
        kind: How much of the training is done.
        token: A file in the searching process's cache, by which a worker knows that cache.
    """

    source: Source
    recipe: JsonDict
    choice: Choice
    kind: Kind
    token: str


@dataclass(frozen=True)
class Answer:
    """What a worker gives back.

    Attributes:
        stages: Folder in ``done`` -> file -> content; empty where the cache is shared.
        error: The message for the user, with its hint; None where the trial is done.
    """

    stages: dict[str, dict[str, bytes]]
    error: tuple[str, str | None] | None = None


def work_on(task: Task) -> Answer:
    """Do a trial in this process's cache: what a worker runs."""
    from diffc.recipe import Recipe

    recipe = Recipe.model_validate(task.recipe)
    home = cache_folder() / TRIALS / f"worker-{uuid.uuid4().hex}"
    trial = trial_of(task.source, recipe, task.choice, task.kind, home)
    try:
        with out_lock(home, cache_folder()):
            names = _stages_of(trial)
    except DiffcError as error:
        return Answer({}, (str(error), error.hint))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if (cache_folder() / TRIALS / task.token).is_file():
        return Answer({})
    return Answer({name: _content(cache_folder() / "done" / name) for name in names})


def _stages_of(trial: PlannedTrial) -> list[str]:
    """Do the trial, whatever another worker does meanwhile; the names of its stages' folders."""
    while True:
        try:
            return [one.folder.name for one in drain(run_trial(trial)).runner.done]
        except StageBusy:
            time.sleep(_BUSY_SECONDS)


def _content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def keep_stages(cache: Path, answer: Answer) -> None:
    """Put a worker's stages into a cache that has not got them."""
    for name, files in answer.stages.items():
        if (cache / "done" / name).exists():
            continue
        with temporary_folder(cache / "done", name) as folder:
            for place, content in files.items():
                path = folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            rename_folder(folder, cache / "done" / name)


class RayWorkers:
    """Trainings as tasks of a Ray cluster, each with its GPU where the target is one's."""

    def __init__(self, address: str, *, gpus: bool) -> None:
        self._ray = _connected(address)
        self._gpus = 1 if gpus else 0
        resources = self._ray.cluster_resources()
        self.count = max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
        self._token = f"token-{uuid.uuid4().hex}"
        write_text(cache_folder() / TRIALS / self._token, "")

    def train(self, trials: Sequence[PlannedTrial]) -> Generator[StageEvent, None, None]:
        """Train all of them at once; a trial whose worker dies is done again elsewhere.

        Raises:
            UnavailableError: A trial failed, or its workers died again and again.
        """
        remote = self._ray.remote(num_gpus=self._gpus, max_retries=_RETRIES)(work_on)
        waiting = {remote.remote(self._task(trial)): trial for trial in trials}
        yield StageEvent("ray", "started")
        while waiting:
            ready, _ = self._ray.wait(list(waiting), timeout=1.0)
            for one in ready:
                trial = waiting.pop(one)
                keep_stages(cache_folder(), self._answer(one, trial))
                yield _note(f"{words_of(trial.choice)}: a worker has trained it")
        yield _note(f"{len(trials)} trainings are done")

    def _task(self, trial: PlannedTrial) -> Task:
        request = trial.request
        recipe = trial.whole.model_dump(mode="json")
        return Task(request.source, recipe, trial.choice, trial.kind, self._token)

    def _answer(self, reference: object, trial: PlannedTrial) -> Answer:
        try:
            answer: Answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            words = (str(error).strip().splitlines() or ["no reason was given"])[-1]
            raise UnavailableError(
                f"the trial {words_of(trial.choice)} failed on its worker: {words}",
                hint="the same command goes on with what is done",
            ) from None
        if answer.error is not None:
            message, hint = answer.error
            raise UnavailableError(f"the trial {words_of(trial.choice)}: {message}", hint=hint)
        return answer

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        with suppress(OSError):
            (cache_folder() / TRIALS / self._token).unlink(missing_ok=True)
        self._ray.shutdown()


def _note(words: str) -> StageEvent:
    return StageEvent("ray", "note", note=words)


def check_workers(text: str | None) -> None:
    """Refuse workers that there cannot be, in seconds.

    Raises:
        RequestError: ``text`` names none.
        UnavailableError: Ray is not installed, or nothing answers at the address.
    """
    from importlib.util import find_spec

    if text is None:
        return
    if text != LOCAL and not text.startswith(_SCHEME):
        raise RequestError(
            f"--workers {text}: not ray, and no address such as ray://head:10001",
            hint="ray starts workers on this machine",
        )
    if find_spec("ray") is None:
        raise UnavailableError(
            "--workers needs Ray, which is not installed", hint="pip install 'diffc[ray]'"
        )
    if text != LOCAL:
        _check_answers(text)


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix(_SCHEME).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RequestError(f"--workers {address}: not an address such as ray://head:10001")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise UnavailableError(
            f"--workers {address}: no Ray cluster answers there: {error.strerror or error}",
            hint="ray start --head starts one, whose clients connect at port 10001",
        ) from None


def workers_of(text: str | None, *, gpus: bool) -> Workers:
    """The workers that ``--workers`` names; this process where it names none.

    Raises:
        UnavailableError: The cluster cannot be joined.
    """
    return Here() if text is None else RayWorkers(text, gpus=gpus)


def _connected(address: str) -> ModuleType:
    """The ``ray`` package, connected."""
    import logging
    from importlib import import_module

    ray = import_module("ray")
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnavailableError(f"--workers {address}: {words}") from None
    return ray
