"""How the samples were made that an output folder's report judges, for stages that come after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diffc.follows import still_follows
from diffc.judged import with_loops
from diffc.measure.quality import metrics_of
from diffc.models.source import read_json
from diffc.stage_records import STATE
from diffc.stages.samples import DENSE_SAMPLES
from diffc_runtime.loop import Loop


@dataclass(frozen=True)
class JudgedSamples:
    """The samples of OUT: the loops of both sides, the noise, and what was measured of them."""

    reference: Loop
    own: tuple[Loop, ...]
    seed: int
    n: int
    metrics: tuple[str, ...]


def judged_samples(out: Path) -> JudgedSamples | None:
    """How the samples of OUT were made; None where no figure of them could be computed.

    None, too, where they are not of what OUT/model is now.
    """
    if not (out / DENSE_SAMPLES).is_file() or not still_follows(out, ["samples"]):
        return None
    figures = read_json(out / STATE / "samples.json")["result"]
    named = [one.name for one in metrics_of(figures) if figures[one.name]]
    figure = with_loops(figures[named[0]]) if named else {}
    if "reference_loop" not in figure:
        return None
    reference = replace(_loop(figure["reference_loop"]), spacing=figure["reference_spacing"])
    own = replace(_loop(figure["loop"]), spacing=figure["spacing"])
    seed, n = int(figure["seeds"][0]), int(figure["n"])
    return JudgedSamples(reference, (own,), seed, n, tuple(named))


def _loop(text: str) -> Loop:
    """A figure's loop, in which one without guidance has none."""
    loop = Loop.parse(text)
    return replace(loop, guidance=loop.guidance or 1.0)
