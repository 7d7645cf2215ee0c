"""What a check found, in the form of its JSON: the source of truth for every other output."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from diffc.gate.rule import Verdict
from diffc_runtime.json_types import JsonDict

SCHEMA_VERSION = 1
EXIT = {"pass": 0, "regressed": 1, "inconclusive": 3, "unfit": 4}


class _ResultPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Figure(_ResultPart):
    """One figure of one engine, judged.

    name: latency p50, latency mean, loop p50, peak memory, engine size, build time, parity, SSIM;
    output (of numbers that are none), engine (that the baseline has and the candidate lost).
    note: why it is absent or inconclusive, or what its values do not share.
    unit: ms, bytes, s, or empty. ratio, ci99, pairs: of candidate over baseline, where measured so.
    """

    target: str
    precision: str
    batch: int | None
    name: str
    verdict: Verdict
    unit: str = ""
    baseline: float | None = None
    candidate: float | None = None
    ratio: float | None = None
    ci99: tuple[float, float] | None = None
    pairs: int | None = None
    limit: str | None = None
    note: str = ""
    samples_ms: dict[str, list[float]] | None = None


class SelfComparison(_ResultPart):
    """The baseline against itself: what this machine can tell now."""

    target: str
    precision: str
    batch: int
    verdict: Verdict
    ratio: float
    ci99: tuple[float, float]
    pairs: int
    spread: float


class Side(_ResultPart):
    """What was checked, or what it was checked against."""

    path: str
    kind: str
    model: str
    digest: str | None = None


class CheckResult(_ResultPart):
    """A whole check. weaker: the baseline was not measured again. seconds: how long it took."""

    schema_version: int = SCHEMA_VERSION
    diffc: str
    created: str
    verdict: Verdict
    exit_code: int
    candidate: Side
    baseline: Side
    weaker: bool = False
    figures: list[Figure]
    noise: list[SelfComparison] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    seconds: float
    environment: JsonDict

    @property
    def absent(self) -> list[Figure]:
        """What could not be measured; each has its reason as its note."""
        return [figure for figure in self.figures if figure.verdict == "absent"]

    @property
    def worst(self) -> list[Figure]:
        """What did not pass, the regressions first."""
        order = ("regressed", "unfit", "inconclusive")
        bad = [figure for figure in self.figures if figure.verdict in order]
        return sorted(bad, key=lambda f: (order.index(f.verdict), -(f.ratio or 0.0)))


def overall(figures: list[Figure]) -> Verdict:
    """The verdict of all: a regression counts whatever else could not be judged."""
    verdicts = {figure.verdict for figure in figures}
    order: tuple[Verdict, ...] = ("regressed", "unfit", "inconclusive")
    return next((verdict for verdict in order if verdict in verdicts), "pass")


def side(path: Path, kind: str, model: str, digest: str | None) -> Side:
    """How a side is named in the result."""
    # names on a disk may be no text; what is written has to be
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Side(path=text, kind=kind, model=model, digest=digest)
