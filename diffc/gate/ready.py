"""The questions of a check before it times anything: can everything be measured here?

A target that cannot run here is left out with its reason, unless the request names it. A wrong
request (such as an unknown target) ends here, not after minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from diffc.errors import DiffcError, NotComparable, RequestError, UnavailableError
from diffc.gate.pairing import Selection
from diffc.gate.subject import CheckedEngine
from diffc.measure.engines import open_usable_engines, why_absent
from diffc.measure.parity import read_reference
from diffc_export.events import Progress, Work
from diffc_export.targets import target
from diffc_export.targets.base import LoadedEngine
from diffc_export.targets.engine import EngineInfo
from diffc_runtime import machine


def check_wanted(wanted: Selection, seed: int) -> None:
    """Refuse impossible names and numbers before any file is read.

    Raises:
        RequestError: The message names the flag.
    """
    for name in wanted.targets:
        target(name)
    machine.cpu.check_threads(wanted.threads)
    wrong = [batch for batch in wanted.batch if batch < 1]
    if wrong:
        raise RequestError(f"--batch {wrong[0]}: batch sizes are 1 or more")
    if seed < 0:
        raise RequestError(f"--seed {seed}: seeds are 0 or more")


def check_inputs(engines: Sequence[CheckedEngine], wanted: Selection) -> None:
    """Refuse engines by their own descriptions, before any is loaded.

    Args:
        engines: the candidate, and the baseline where it is measured again.
        wanted: the request; a target that it names has to be there.

    Raises:
        InputError: the candidate's reference is damaged, or of another model.
        UnavailableError: a target that the request names cannot run here.
    """
    reason = why_absent(engines[0].info)
    if reason is not None and engines[0].info.target in wanted.targets:
        raise UnavailableError(f"{engines[0].name} cannot be measured here: {reason}")
    if engines[0].reference is not None:
        read_reference(engines[0].reference, cast("LoadedEngine", _Described(engines[0].info)))


def why_not_ready(
    engines: Sequence[CheckedEngine], wanted: Selection, *, load: bool
) -> Work[str | None]:
    """The reason why these engines cannot be measured here; None where nothing stands against it.

    Args:
        engines: the candidate, and the baseline where it is measured again.
        wanted: the request; an engine of a target that it names has to run.
        load: whether to load them once and let them go. Of several pairs each must be tried before
            the first is timed; one alone is loaded before anything is timed in any case.

    Raises:
        UnavailableError, NotComparable: for an engine of a target that the request names.
    """
    candidate = engines[0]
    reason = why_absent(candidate.info)
    if reason is not None or not load:
        return reason
    yield Progress(0, None, f"loading {candidate.name}")
    error = _loading_error(engines, wanted)
    if error is not None and candidate.info.target in wanted.targets:
        raise error
    return None if error is None else str(error)


def _loading_error(engines: Sequence[CheckedEngine], wanted: Selection) -> DiffcError | None:
    folders = {str(number): engine.folder for number, engine in enumerate(engines)}
    try:
        with open_usable_engines(folders, wanted.threads, strict=True):
            return None
    except (UnavailableError, NotComparable) as error:
        return error


@dataclass(frozen=True)
class _Described:
    """Stands in for a loaded engine where its description alone is read."""

    info: EngineInfo
