"""How the samples were made that an output folder's report judged, without torch.

The same noise, sampler, steps and guidance make the same pictures again, in Python, on the command
line and on a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.stage_records import STATE, read_record
from diffc_runtime.errors import BadRequest
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop

_OLDER = {"DDIM": "ddim", "FlowMatchEulerDiscrete": "flow-euler"}
"""The samplers of figures before there were loops, by diffusers' classes."""


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
        first = with_loops(next(figure for figure in figures.values() if "sampler" in figure))
        loop = Loop.parse(first["loop"])
        return Judged(str(loop.sampler), int(loop.steps or 0), loop.guidance or 1.0)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, BadRequest):
        return None


def with_loops(figure: JsonObject) -> JsonObject:
    """Return a figure with ``loop`` and ``reference_loop``.

    A figure of an older diffc names one sampler, with which both sides were made. A loop without a
    guidance in a figure has none.
    """
    sampler = _OLDER.get(str(figure.get("sampler")))
    if "loop" in figure or sampler is None or "steps" not in figure:
        return figure
    guidance = float(figure.get("guidance", 1.0))
    both = Loop(sampler, int(figure["steps"]), None if guidance == 1 else guidance)
    spacing = figure.get("spacing")
    return {
        **figure,
        "sampler": sampler,
        "guidance": guidance,
        "loop": str(both),
        "reference_loop": str(both),
        "reference_spacing": spacing,
    }
