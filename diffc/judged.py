"""How the samples were made that an output folder's report judged, without torch.

The same noise, sampler, steps and guidance make the same pictures again, in Python, on the command
line and on a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.stage_records import STATE, read_record

_SAMPLERS = {"DDIM": "ddim", "FlowMatchEulerDiscrete": "flow-euler"}
"""The runtime's names for the deterministic samplers with which samples are compared."""


@dataclass(frozen=True)
class Judged:
    """How samples were made.

    Attributes:
        sampler: The runtime's name of the sampler.
        steps: The number of steps.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    sampler: str
    steps: int
    guidance: float = 1.0


def find_judged(out: Path) -> Judged | None:
    """Return how the samples of OUT were made; None where none were judged.

    A damaged record is as good as none: it only gives defaults.
    """
    record = read_record(out / STATE / "samples.json")
    figures = {} if record is None else record.result
    try:
        first = next(figure for figure in figures.values() if "sampler" in figure)
        sampler = _SAMPLERS[str(first["sampler"])]
        return Judged(sampler, int(first["steps"]), float(first.get("guidance", 1.0)))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
