"""diffc check: candidate and baseline measured again, in turn, on this machine, and judged.

pairing.py says what is compared, ready.py what can be measured here, both before anything is
timed; figures.py measures. What cannot be measured is absent with its reason, and the rest counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from diffc import __version__
from diffc.gate import figures as measure
from diffc.gate.ahead import ahead_figures
from diffc.gate.figures import Label, Measuring, in_turn
from diffc.gate.limits import CheckLimits
from diffc.gate.pairing import Lost, Pair, Selection, StoredPair, match_engines, match_figures
from diffc.gate.progress import Steps
from diffc.gate.quality import quality_figures
from diffc.gate.ready import check_inputs, check_wanted, why_not_ready
from diffc.gate.result import EXIT, CheckResult, Figure, SelfComparison, overall, side
from diffc.gate.rule import RuleOptions
from diffc.gate.subject import CheckedEngine, CheckedSide
from diffc.measure.environment import read_environment
from diffc_export.events import Work

__all__ = ["CheckRequest", "check", "check_report", "in_turn"]

_LATENCY = "latency p50"
_WEAKER = (
    "weaker: the baseline was not measured again, so whatever changed on this machine since then "
    "is in the figures"
)


@dataclass(frozen=True)
class CheckRequest:
    """One check.

    Attributes:
        candidate: The side that is judged.
        baseline: The side that it is judged against.
        limits: How much worse is allowed.
        rule: How long to measure.
        targets: The targets to judge; empty: all that the baseline has.
        batch: The batch sizes to judge; empty: all that the baseline has.
        threads: CPU threads of both sides; None: as each was built.
        time_loop: Whether whole images are timed, each side's by its own loop.
        memory: Whether memory is measured.
        require_ahead: Whether the candidate fails where a dense loop of the same time is better.
    """

    candidate: CheckedSide
    baseline: CheckedSide
    limits: CheckLimits
    rule: RuleOptions
    targets: tuple[str, ...] = ()
    batch: tuple[int, ...] = ()
    threads: int | None = None
    time_loop: bool = True
    memory: bool = True
    require_ahead: bool = False

    @property
    def selection(self) -> Selection:
        """The engines that the request names."""
        return Selection(self.targets, tuple(dict.fromkeys(self.batch)), self.threads)

    def measuring(self, batches: Sequence[int], *, stored: bool = False) -> Measuring:
        """Return the options with which the check measures.

        Args:
            batches: For each pair of engines that can be measured, its number of batch sizes.
            stored: Whether the baseline is stored figures.
        """
        steps = Steps(0)
        how = Measuring(self.limits, self.rule, self.threads, self.time_loop, self.memory, steps)
        steps.total = sum(how.count(number, stored=stored) for number in batches)
        return how


@dataclass
class _Findings:
    figures: list[Figure] = field(default_factory=list)
    noise: list[SelfComparison] = field(default_factory=list)

    def add(self, figures: Sequence[Figure], noise: Sequence[SelfComparison] = ()) -> None:
        self.figures += figures
        self.noise += noise


def check(request: CheckRequest) -> Work[CheckResult]:
    """Judge a candidate against a baseline that can be measured again.

    A machine too noisy to judge is a verdict, not an exception. Every error comes before anything
    is timed.

    Raises:
        NotComparable: The two cannot be compared; the message shows both.
        UnavailableError: An engine that the request names cannot run here.
        RequestError: The request is wrong.
    """
    start = time.perf_counter()
    check_wanted(request.selection, request.rule.seed)
    matching = match_engines(request.candidate, request.baseline, request.selection)
    engines = [(pair.candidate, pair.baseline) for pair in matching.pairs]
    reasons = yield from _why_not(engines, request)
    findings = _Findings()
    ready = [p for p in matching.pairs if reasons[p.candidate.name] is None]
    how = request.measuring([len(pair.batches) for pair in ready])
    for pair in matching.pairs:
        reason = reasons[pair.candidate.name]
        if reason is not None:
            findings.add(_absent(pair.candidate, pair.batches, reason))
        else:
            yield from _measure(pair, how, findings)
        findings.add(measure.sizes(pair, request.limits))
    return _result(request, findings, matching.lost, matching.notes, start)


def check_report(request: CheckRequest) -> Work[CheckResult]:
    """Judge a candidate, measured now, by figures that were stored: a weaker check.

    Raises:
        NotComparable: As ``check``; the stored figures are not of this machine and its runtimes.
        UnavailableError: As ``check``.
        RequestError: As ``check``.
    """
    start = time.perf_counter()
    check_wanted(request.selection, request.rule.seed)
    matching = match_figures(request.candidate, request.baseline, request.selection)
    engines = [(pair.candidate,) for pair in matching.stored]
    reasons = yield from _why_not(engines, request)
    findings = _Findings()
    ready = [p for p in matching.stored if reasons[p.candidate.name] is None]
    how = request.measuring([len(pair.stored) for pair in ready], stored=True)
    for pair in matching.stored:
        reason = reasons[pair.candidate.name]
        if reason is not None:
            findings.add(_absent(pair.candidate, tuple(pair.stored), reason))
        else:
            yield from _measure_against_stored(pair, how, findings)
    notes = [_WEAKER, *matching.notes]
    return _result(request, findings, matching.lost, notes, start, weaker=True)


def _why_not(
    engines: Sequence[tuple[CheckedEngine, ...]], request: CheckRequest
) -> Work[dict[str, str | None]]:
    """Candidate's name -> why it cannot be measured here; None where it can."""
    for together in engines:
        check_inputs(together, request.selection)
    reasons = {}
    for together in engines:
        reasons[together[0].name] = yield from why_not_ready(
            together, request.selection, load=len(engines) > 1
        )
    return reasons


def _absent(engine: CheckedEngine, batches: Sequence[int], reason: str) -> list[Figure]:
    """The figures of an engine that cannot run here."""
    note = f"not measured here: {reason}"
    return [Label.of(engine, batch).figure(_LATENCY, "absent", note=note) for batch in batches]


def _timed_or_open(figures: Sequence[Figure]) -> list[Figure]:
    """The same figures, but inconclusive latencies where no engine at all was timed."""
    absent = [figure.verdict == "absent" for figure in figures if figure.name == _LATENCY]
    if not all(absent):
        return list(figures)
    return [
        figure.model_copy(update={"verdict": "inconclusive"}) if figure.name == _LATENCY else figure
        for figure in figures
    ]


def _measure(pair: Pair, how: Measuring, findings: _Findings) -> Work[None]:
    for batch in pair.batches:
        findings.add(*(yield from measure.measured_pair(pair, batch, how)))
    findings.add((yield from measure.parity(pair.candidate, how)))


def _measure_against_stored(pair: StoredPair, how: Measuring, findings: _Findings) -> Work[None]:
    for batch, before in pair.stored.items():
        findings.add(*(yield from measure.against_stored(pair.candidate, batch, before, how)))
    findings.add((yield from measure.parity(pair.candidate, how)))


def _result(
    request: CheckRequest,
    findings: _Findings,
    lost: Sequence[Lost],
    notes: Sequence[str],
    start: float,
    *,
    weaker: bool = False,
) -> CheckResult:
    places = [(Label(one.target, one.precision, one.batch), one.reason) for one in lost]
    gone = [label.figure("engine", "inconclusive", note=reason) for label, reason in places]
    quality = quality_figures(request.candidate, request.baseline, request.limits)
    ahead = ahead_figures(request.candidate) if request.require_ahead else []
    figures = [*_timed_or_open(findings.figures), *gone, *quality, *ahead]
    verdict = overall(figures)
    sides = [side(s.path, s.kind, s.model, s.digest) for s in (request.candidate, request.baseline)]
    return CheckResult(
        diffc=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        verdict=verdict,
        exit_code=EXIT[verdict],
        candidate=sides[0],
        baseline=sides[1],
        weaker=weaker,
        figures=figures,
        noise=findings.noise,
        notes=list(notes),
        seconds=time.perf_counter() - start,
        environment=read_environment().model_dump(mode="json"),
    )
