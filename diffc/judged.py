"""How the samples are made that an output folder's report judges, without torch.

The same noise, loop and conditions make the same pictures again, in Python, on the command line and
on a server.
"""

from __future__ import annotations

from pathlib import Path

from diffc.data.guidance import USUAL_SCALE
from diffc.data.loops import run_loops
from diffc.errors import DiffcError
from diffc.output import locked_recipe
from diffc.recipe import Recipe
from diffc.stage_records import STATE, read_record
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop

_OLDER = {"DDIM": "ddim", "FlowMatchEulerDiscrete": "flow-euler"}
"""The samplers of figures before there were loops, by diffusers' classes."""


def find_loop(out: Path, side: str, config: JsonObject) -> Loop | None:
    """Return the loop that OUT's images of a side are made with; None where OUT has no recipe.

    Args:
        out: An output folder.
        side: ``dense`` or ``compressed``.
        config: The side's scheduler config.
    """
    try:
        recipe = locked_recipe(out)
        return run_loops(recipe, config, usual_guidance(out, recipe)).of(side)
    except DiffcError:  # a damaged file is as good as none: it only gives defaults
        return None


def usual_guidance(out: Path, recipe: Recipe) -> float:
    """Return the guidance of loops that say nothing: the recipe's, or what the model decided.

    It is 1 where the data have no null conditions.
    """
    record = read_record(out / STATE / "data.json")
    if record is None:
        return recipe.data.guidance or 1.0
    if not record.result.get("null"):
        return 1.0
    return float(recipe.data.guidance or record.result.get("guidance") or USUAL_SCALE)


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
