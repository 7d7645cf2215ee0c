"""How a test runs the chain in this process, and what a refusal must look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diffc
from diffc.errors import DiffcError
from diffc.report.model import Report
from diffc.runner import StageEvent
from support.quick import QUICK

QUICKEST = {**QUICK, "measure": {**QUICK["measure"], "explain": "off"}}


def options_of(changes: dict[str, Any]) -> dict[str, Any]:
    """``QUICKEST`` with the sections of ``changes`` laid over it."""
    merged: dict[str, Any] = {**QUICKEST}
    for section, value in changes.items():
        merged[section] = {**merged.get(section, {}), **value} if isinstance(value, dict) else value
    return merged


def compile_quickly(model: Path | str, out: Path, stop: str = "distill", **changes: Any) -> Report:
    """``diffc.compile`` at ratio 0.3 with the quickest options; ``changes``: recipe sections."""
    arguments = {
        "ratio": 0.3,
        "target": "ort-cpu",
        "allow_pickle": changes.pop("allow_pickle", False),
    }
    arguments |= {
        key: changes.pop(key) for key in ("ratio", "target", "on_event", "force") if key in changes
    }
    # tests go on in one folder with other options
    arguments.setdefault("force", True)
    return diffc.compile(model, out=out, stop=stop, options=options_of(changes), **arguments)


def refusal(model: Path | str, out: Path, stop: str = "bench", **changes: Any) -> DiffcError:
    """The error that ``compile`` refuses with: one line, before any stage has finished."""
    events: list[StageEvent] = []
    with pytest.raises(DiffcError) as caught:
        compile_quickly(model, out, stop, on_event=events.append, **changes)
    error = caught.value
    assert error.exit_code == 2, error
    assert not [event for event in events if event.kind == "finished"], "refused after a stage"
    assert "\n" not in str(error) and len(str(error)) < 300, str(error)
    assert not str(error).rstrip().endswith(":"), str(error)
    return error
